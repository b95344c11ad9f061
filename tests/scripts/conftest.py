"""Fixtures for the tests of scripts, which are files, not modules of a package."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.append(str(SCRIPTS))  # as Python does for a script, so that scripts find their helper modules


@pytest.fixture(scope="module")
def script(request):
    """The script that the test file names in `SCRIPT`, relative to scripts/, as a module."""
    path = SCRIPTS / request.module.SCRIPT
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # its functions travel to the workers by name
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))  # as for a command, whose folder Python searches first
        spec.loader.exec_module(module)
        yield module
    del sys.modules[path.stem]


@pytest.fixture
def refused(script, capsys):
    """Runs the script with arguments that it must refuse with exit code 2; returns its message."""

    def refused(*arguments):
        with pytest.raises(SystemExit) as stop:
            script.main([str(argument) for argument in arguments])
        assert stop.value.code == 2
        prefix = f"{script.__name__}: "
        (message,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith(prefix))
        return message.removeprefix(prefix).removeprefix("error: ")

    return refused
