"""The Makefile fills one environment for several checkouts, again only where requirements changed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COPIED = ("Makefile", "pyproject.toml", "requirements.txt", "scripts/list_requirements.py")
# Stands for the Python of an environment: it runs scripts and notes all else, with the folder that commands import.
PYTHON = f"""#!/bin/sh
case $1 in
    *list_requirements.py) exec {sys.executable} "$@" ;;
    *) echo "$PYTHONPATH: $*" >> "$(dirname "$0")/calls" ;;
esac
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def venv(tmp_path):
    """A shared environment whose Python installs nothing."""
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/python").write_text(PYTHON)
    (tmp_path / "venv/bin/python").chmod(0o755)
    return tmp_path / "venv"


@pytest.fixture
def make(venv, monkeypatch):
    """Runs `make` in a checkout with the shared environment: `make(checkout, target)` -> its calls of Python."""
    monkeypatch.delenv("PYTHONPATH")

    def make(checkout, target):
        (venv / "bin/calls").unlink(missing_ok=True)
        subprocess.run(["make", target, f"VENV={venv}"], cwd=checkout, check=True, capture_output=True)
        return (venv / "bin/calls").read_text().splitlines()

    return make


def clone(folder):
    for name in COPIED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def installs(calls):
    return [call for call in calls if "pip install" in call]


def stamps(venv):
    return [path.name for path in venv.iterdir() if path.name.startswith(".installed")]


def test_two_checkouts_share_an_environment(tmp_path, venv, make):
    (venv / ".installed").touch()  # of an older checkout
    first = clone(tmp_path / "first")
    (install, *checks) = make(first, "test")
    assert f"--requirement {venv}/requirements.txt" in install and "--editable" not in install
    assert [call.split()[2] for call in checks] == ["ruff", "ruff", "mypy", "pytest"]
    assert all(call.startswith(f"{first}: -m ") for call in checks)
    needed = (venv / "requirements.txt").read_text().splitlines()
    assert {"torch>=2.6", "ruff>=0.6"} < {*needed} and not any("basicsr" in line for line in needed)
    assert len(stamps(venv)) == 1

    second = clone(tmp_path / "second")  # its files are newer than the stamp
    calls = make(second, "test")
    assert installs(calls) == [] and all(call.startswith(f"{second}: -m ") for call in calls)


@pytest.mark.parametrize(
    ("name", "old", "new", "again"),
    [
        ("requirements.txt", "torch>=2.6", "torch>=2.7", True),
        ("pyproject.toml", '"ruff>=0.6"', '"ruff>=0.7"', True),
        ("pyproject.toml", "line-length = 120", "line-length = 100", False),
    ],
)
def test_only_changed_requirements_are_installed_again(tmp_path, venv, make, name, old, new, again):
    checkout = clone(tmp_path / "checkout")
    make(checkout, "check")
    text = (checkout / name).read_text()
    assert old in text
    (checkout / name).write_text(text.replace(old, new))
    assert len(installs(make(checkout, "check"))) == again
    assert len(stamps(venv)) == 1


def test_the_editable_install_is_asked_for(tmp_path, venv, make):
    """It would point an environment that others share to this checkout."""
    checkout = clone(tmp_path / "checkout")
    assert sum("--editable ." in call for call in make(checkout, "install")) == 1
