"""Every kernel compiles for an H100, which need not be there: the compiler rejects code that the interpreter runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton.backends.nvidia")

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("arguments", "number"), [(["--one"], 2), pytest.param([], 11, marks=pytest.mark.slow)], ids=["one", "all"]
)
def test_kernels_compile(tmp_path, arguments, number):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, Path(__file__).with_name("compiled_for_hopper.py"), *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    kernels = {tuple(line.split()[:2]) for line in result.stdout.splitlines() if line.startswith("basicsr")}
    assert len(kernels) == number
