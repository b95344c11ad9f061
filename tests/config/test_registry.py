"""Names to code: discovery on first look-up, and the errors of names that are wrong, taken or broken."""

import sys

import pytest

from basicsr.config.location import Location
from basicsr.config.registry import Registry
from basicsr.config.section import Spec
from basicsr.errors import OptionError, UnknownNameError


@pytest.fixture
def plug_ins(tmp_path, monkeypatch):
    """A registry of widgets, and a function that adds a file to its package."""
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


def test_nothing_is_imported_before_a_name_is_looked_up_and_then_its_file_first(plug_ins):
    registry, _ = plug_ins
    assert "widgets.round_widget" not in sys.modules
    assert registry.get("Round").__name__ == "Round"
    assert "widgets.round_widget" in sys.modules and "widgets.square_widget" not in sys.modules
    assert registry.keys() == ["Round", "Square"]
    assert "Square" in registry and "Triangle" not in registry


def test_a_file_may_hold_other_names(plug_ins):
    registry, add = plug_ins
    add("odd_widget.py", "@WIDGETS.register(name='Hexagon-L')", "def make(): return 6")
    assert registry.build({"type": "Hexagon-L"}) == 6


def test_a_broken_file_fails_loudly(plug_ins):
    registry, add = plug_ins
    add("broken_widget.py", "import a_module_that_is_not_there")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        registry.get("Square_of_something_else")


def test_an_unknown_name_gets_the_nearest(plug_ins):
    registry, _ = plug_ins
    with pytest.raises(UnknownNameError) as error:
        registry.get("Rond")
    assert str(error.value) == "no widget is called 'Rond'; did you mean Round?"
    with pytest.raises(UnknownNameError, match="no widget is called 'X'; known: Round, Square"):
        registry.get("X")


def test_a_taken_name_names_both_owners():
    registry = Registry("widget")

    def make():
        return 1

    other = type("make", (), {"__module__": "plug_in"})
    registry.register(make)
    registry.register(make)  # importing a file twice is no clash
    with pytest.raises(
        KeyError, match=rf"two widgets are called 'make': in {__name__} and plug_in; rename one or pass"
    ):
        registry.register(other)
    registry.register(other, suffix="mine")
    assert registry.get("make", suffix="mine") is make
    assert registry.get("make_mine") is other


def test_a_suffixed_name_is_found_without_it():
    registry = Registry("widget")
    registry.register(dict, suffix="basicsr")
    assert registry.get("dict") is dict


def test_building_passes_arguments_and_tells_the_place_of_a_refusal():
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
