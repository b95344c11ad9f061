"""The architecture of the package: who may import whom, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "basicsr"
LAYERS = {  # a folder may import itself and what stands in its row
    "utils": set(),
    "metrics": {"utils"},
    "data": {"utils"},
    "archs": {"utils"},
    "losses": {"utils", "archs"},
    "models": {"utils", "archs", "losses", "metrics"},
    "runtimes": {"utils", "archs"},
}
FILES = sorted(PACKAGE.glob("*/**/*.py"))


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_packages_only_import_downwards(path):
    layer = path.relative_to(PACKAGE).parts[0]
    wrong = [
        f"line {line} imports {module}"
        for line, module in imported_modules(path)
        if module.startswith("basicsr.") and module.split(".")[1] not in LAYERS[layer] | {layer, "version"}
    ]
    assert wrong == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_kernels_import_triton(path):
    if path.parent != PACKAGE / "archs/kernels":
        assert not [line for line, module in imported_modules(path) if module.split(".")[0] == "triton"]


def test_every_folder_has_a_layer():
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(LAYERS)


def loaded_after(statement):
    code = f"import sys\n{statement}\nprint(' '.join(sys.modules))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_the_package_loads_no_torch():
    modules = loaded_after("import basicsr; basicsr.__version__")
    assert "basicsr" in modules
    assert not {"torch", "cv2", "numpy"} & set(modules)


def test_looking_up_one_network_imports_that_one():
    modules = loaded_after(
        "from basicsr.archs import build_network; build_network({'type': 'CATANet-S', 'upscale': 2})"
    )
    assert [m for m in modules if m.startswith("basicsr") and m.endswith("_arch")] == ["basicsr.archs.catanet_arch"]
    assert not {"cv2", "basicsr.data", "basicsr.models"} & set(modules)


@pytest.mark.parametrize("name", ["build_network", "build_model", "get_root_logger", "imresize", "calculate_psnr"])
def test_names_that_plugins_import_from_the_top(name):
    import basicsr

    assert callable(getattr(basicsr, name))
    assert name in dir(basicsr)
