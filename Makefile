# Both commands make what they need: a virtual environment in .venv (or VENV=path), filled once until requirements change.
VENV ?= .venv
PYTHON ?= python3
PY = $(VENV)/bin/python
INSTALLED = $(VENV)/.installed

.PHONY: demo test fuzz web install

demo: $(INSTALLED)  ## train CATANet-S x2 on ten photographs and compare it with bicubic: results/demo/
	$(PY) scripts/demo.py

test: $(INSTALLED)  ## lint, types, tests
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest

fuzz: $(INSTALLED)  ## the long campaigns: every kind of run killed 20 times, all mutated inputs
	BASICSR_FULL=1 $(PY) -m pytest -s tests/reliability

web: $(INSTALLED)  ## put network and runtime into the phone demo: web/
	$(PY) -c 'import onnx, onnxruntime, onnxscript' 2>/dev/null || $(PY) -m pip install --quiet --editable '.[export]'
	$(PY) scripts/web.py

install: $(INSTALLED)

$(INSTALLED): requirements.txt pyproject.toml setup.py
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@
