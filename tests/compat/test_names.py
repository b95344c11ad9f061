"""Old import paths go on offering what plug-ins import from them.

`old_names.txt` lists, a module a line, the names of BasicSR 1.4 that are supported, and those of this package (commit
5f782c3) that a plug-in plausibly uses: options, errors, registries, checkpoints, images, data sets, metrics, losses and
`Upscaler`. Helpers of our own programs are not in it.
"""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

LINES = (Path(__file__).parent / "old_names.txt").read_text().splitlines()
NAMES = {module: names.split() for module, names in (line.split(": ") for line in LINES)}


@pytest.mark.parametrize("module", NAMES)
def test_old_names_import(module):
    found = importlib.import_module(module)
    assert [name for name in NAMES[module] if not hasattr(found, name)] == []


def test_the_commands_import_no_torch_for_help():
    code = "import sys, basicsr.utils, basicsr.test; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
