"""The architecture of the package: the order of its parts, who may import whom, and what importing costs."""

import ast
import runpy
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "basicsr"
ORDER = (  # a part may import itself and the parts of earlier rows
    ("errors", "text", "version"),
    ("config",),
    ("engine",),
    ("images",),
    ("archs", "data", "metrics"),
    ("losses",),
    ("pruning",),
    ("models",),
    ("inference",),
    ("runtimes",),
    ("train", "test", "infer", "export"),
    ("compat",),
)
ROW_OF = {part: row for row, parts in enumerate(ORDER) for part in parts}
FILES = {path: path.relative_to(PACKAGE).parts for path in sorted(PACKAGE.rglob("*.py"))}


def is_alias(path):
    """Whether a module only passes on names from their new place, for those who import the old one."""
    return path.is_relative_to(PACKAGE / "utils") or path.read_text().startswith('"""The old import path of')


def imported_modules(path):
    """(line, dotted name) of every import, in functions and under TYPE_CHECKING, too; names of `from x import y`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module
            if node.module == "basicsr":
                yield from ((node.lineno, f"basicsr.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)


def part_of(parts):
    return parts[0].removesuffix(".py")


OWN_CODE = [path for path, parts in FILES.items() if not is_alias(path) and parts != ("__init__.py",)]


@pytest.mark.parametrize("path", OWN_CODE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    part = part_of(FILES[path])
    wrong = [
        f"line {line} imports {module}"
        for line, module in imported_modules(path)
        if module.startswith("basicsr.")
        and (target := module.split(".")[1]) != part
        and ROW_OF.get(target, len(ORDER)) >= ROW_OF[part]
    ]
    assert wrong == []


def test_every_part_has_a_row():
    assert {part_of(parts) for path, parts in FILES.items() if not is_alias(path)} == {*ROW_OF, "__init__"}


@pytest.mark.parametrize("path", OWN_CODE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_imports_an_old_path(path):
    old = {".".join(("basicsr", *FILES[p])).removesuffix(".py") for p in FILES if is_alias(p)}
    assert [(line, module) for line, module in imported_modules(path) if module in old] == []


def test_no_circle():
    """Not among the modules of one part, either, and not through an import inside a function."""
    names = {path: ".".join(("basicsr", *FILES[path])).removesuffix(".py").removesuffix(".__init__") for path in FILES}
    graph = {
        names[path]: {module for _, module in imported_modules(path) if module in names.values()} for path in OWN_CODE
    }
    done, order = set(), []

    def visit(name, way):
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name not in done:
            for module in sorted(graph.get(name, ())):
                visit(module, (*way, name))
            done.add(name)
            order.append(name)

    for name in sorted(graph):
        visit(name, ())


def test_the_picture_in_the_documentation_is_up_to_date():
    script = runpy.run_path(str(PACKAGE.parent / "scripts/draw_architecture.py"))
    picture = (PACKAGE.parent / "docs/architecture.svg").read_text(encoding="utf-8")
    assert script["draw"](script["imports"]()) == picture, "run python scripts/draw_architecture.py"


@pytest.mark.parametrize("path", OWN_CODE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_kernels_import_triton(path):
    if path.parent != PACKAGE / "archs/kernels":
        assert not [line for line, module in imported_modules(path) if module.split(".")[0] == "triton"]
