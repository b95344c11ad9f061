"""Registries: import on the first look-up, and errors for names that are unknown, taken or in broken modules."""

import sys

import pytest

from basicsr.config.location import Location
from basicsr.config.registry import Registry
from basicsr.config.section import Spec
from basicsr.errors import OptionError, UnknownNameError


@pytest.fixture
def widgets(tmp_path, monkeypatch):
    """Return a registry of widgets and a function that adds a module to its package."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "widgets").mkdir()
    (tmp_path / "widgets/__init__.py").touch()
    for name in [name for name in sys.modules if name.split(".")[0] == "widgets"]:
        monkeypatch.delitem(sys.modules, name)
    registry = Registry("widget", "widgets", "_widget")
    monkeypatch.setattr("basicsr.config.registry.WIDGETS", registry, raising=False)

    def add(file, *lines):
        (tmp_path / "widgets" / file).write_text("\n".join(("from basicsr.config.registry import WIDGETS", *lines)))

    add("round_widget.py", "@WIDGETS.register()", "class Round: pass")
    add("square_widget.py", "@WIDGETS.register()", "class Square: pass")
    add("helper.py", "raise RuntimeError('does not end in _widget')")
    yield registry, add
    for name in [name for name in sys.modules if name.split(".")[0] == "widgets"]:
        del sys.modules[name]


def test_modules_are_imported_on_look_up_the_likely_one_first(widgets):
    registry, _ = widgets
    assert "widgets.round_widget" not in sys.modules
    assert registry.get("Round").__name__ == "Round"
    assert "widgets.round_widget" in sys.modules and "widgets.square_widget" not in sys.modules
    assert registry.keys() == ["Round", "Square"]
    assert "Square" in registry and "Triangle" not in registry


def test_all_modules_are_searched_for_a_name(widgets):
    registry, add = widgets
    add("odd_widget.py", "@WIDGETS.register(name='Hexagon-L')", "def make(): return 6")
    assert registry.build({"type": "Hexagon-L"}) == 6


def test_the_error_of_a_broken_module_is_not_hidden(widgets):
    registry, add = widgets
    add("broken_widget.py", "import a_module_that_is_not_there")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        registry.get("Square_of_something_else")


def test_an_unknown_name_is_reported_with_suggestions(widgets):
    registry, _ = widgets
    with pytest.raises(UnknownNameError) as error:
        registry.get("Rond")
    assert "'Rond'" in str(error.value) and "did you mean Round?" in str(error.value)
    with pytest.raises(UnknownNameError, match=r"'X'.*Round, Square"):
        registry.get("X")


def test_a_taken_name_is_reported_with_both_modules():
    registry = Registry("widget")

    def make():
        return 1

    other = type("make", (), {"__module__": "plug_in"})
    registry.register(make)
    registry.register(make)  # registering the same entry twice is allowed
    with pytest.raises(OptionError, match=rf"'make'.* {__name__} and plug_in.* suffix="):
        registry.register(other)
    registry.register(other, suffix="mine")
    assert registry.get("make", suffix="mine") is make
    assert registry.get("make_mine") is other


def test_a_name_is_found_without_its_suffix():
    registry = Registry("widget")
    registry.register(dict, suffix="basicsr")
    assert registry.get("dict") is dict


def test_build_passes_arguments_and_adds_the_location_to_errors():
    registry = Registry("widget")

    @registry.register()
    def widget(base, *, size, colour="red"):
        if size < 0:
            raise ValueError(f"size: must not be negative, got {size}")
        return base, size, colour

    assert registry.build({"type": "widget", "size": 2}, 1, colour="blue") == (1, 2, "blue")
    spec = Spec({"type": "widget", "size": -1}, Location({("a",): "x.yml:7"}, ("a",)))
    with pytest.raises(OptionError, match=r"^x\.yml:7: a: size: must not be negative, got -1$"):
        registry.build(spec, 1)
    with pytest.raises(OptionError, match=r"^widget: size: must not"):
        registry.build(dict(spec), 1)
