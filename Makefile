# Every command first fills a virtual environment in .venv (or VENV=path) with the packages that this checkout needs.
# The environment holds packages only, and commands find `basicsr` by PYTHONPATH: several checkouts can share it.
VENV ?= .venv
PYTHON ?= python3
PY = $(VENV)/bin/python
# A stamp named by the requirements' content: neither a fresh clone nor another checkout installs them again.
REQUIREMENTS := $(shell { cat requirements.txt; sed -n '/^\[project.optional-dependencies\]/,/^$$/p' pyproject.toml; } | cksum | cut -d ' ' -f 1)
INSTALLED = $(VENV)/.installed-$(REQUIREMENTS)
PYTEST = $(PY) -m pytest -n 2

export PYTHONPATH := $(CURDIR)$(addprefix :,$(PYTHONPATH))

.NOTPARALLEL:
.PHONY: demo check test test-slow test-all fuzz zoo-test web install

demo: $(INSTALLED)  ## train CATANet-S x2 on ten photographs, compare it and the shipped networks with bicubic: results/demo/
	$(PY) scripts/demo.py

check: $(INSTALLED)  ## lint, format, types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

test: check  ## check, then the quick tests: before each commit
	$(PYTEST) --dist worksteal -m "not slow"

test-slow: $(INSTALLED)  ## the other tests; those of a file stay together, since they share folders, ports and long fixtures
	$(PYTEST) --dist loadfile -m slow

test-all: test test-slow  ## check, then all tests

fuzz: $(INSTALLED)  ## the long campaigns: every kind of run killed 20 times, all mutated inputs
	BASICSR_FULL=1 $(PY) -m pytest -s tests/reliability

zoo-test: $(INSTALLED)  ## score the networks in pretrained_models/ and compare with zoo.json
	$(PY) scripts/zoo_test.py

web: $(INSTALLED)  ## put networks and runtime into the phone demo: web/
	$(PY) scripts/web.py

install: $(INSTALLED)  ## the editable install of this checkout, with its commands basicsr-train, ...
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --editable .

$(INSTALLED):
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) scripts/list_requirements.py dev > $(VENV)/requirements.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --requirement $(VENV)/requirements.txt
	rm -f $(VENV)/.installed*
	touch $@
