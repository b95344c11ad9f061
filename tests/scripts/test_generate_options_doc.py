import runpy
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "generate_options_doc.py"


def test_the_reference_of_options_is_current():
    # In a process of its own: tests before this one may have registered plug-ins.
    done = subprocess.run([sys.executable, str(SCRIPT), "--check"])
    assert done.returncode == 0, f"run python scripts/{SCRIPT.name}"


def test_every_argument_is_explained():
    page = runpy.run_path(str(SCRIPT))["page"]()
    assert [line for line in page.splitlines() if line.endswith("|  |")] == []
