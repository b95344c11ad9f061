import runpy
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "generate_options_doc.py"


def test_the_page_is_up_to_date():
    # In a separate process, because earlier tests may have registered plug-ins.
    done = subprocess.run([sys.executable, str(SCRIPT), "--check"])
    assert done.returncode == 0, f"run python scripts/{SCRIPT.name}"


def test_every_argument_is_documented():
    page = runpy.run_path(str(SCRIPT))["page"]()
    assert [line for line in page.splitlines() if line.endswith("|  |")] == []
