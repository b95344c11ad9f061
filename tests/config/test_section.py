"""Plain values to typed ones: the conversions that option files of today do not all exercise."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest

from basicsr.config.convert import convert, describe
from basicsr.config.location import Location
from basicsr.config.section import signature_hints
from basicsr.errors import OptionError

HERE = Location({(): "x.yml", ("a",): "x.yml:4", ("a", 1): "x.yml:6"}, ("a",))


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (2, float, 2.0),
        (2500.0, int, 2500),
        (None, int | None, None),
        ([1, 2.0], Sequence[float], (1.0, 2.0)),
        ([1, [2, 3]], tuple[int, list[int]], (1, (2, 3))),
        (3, int | Sequence[int], 3),
        ([3], int | Sequence[int], (3,)),
        (2, float | int, 2),
        (2.5, int | float, 2.5),
        ("cpu", Literal["cpu", "cuda"] | None, "cpu"),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
        ({"a": [1]}, Mapping, {"a": [1]}),
        (object, Any, object),
    ],
)
def test_values_become_what_is_due(value, hint, expected):
    found = convert(value, hint, HERE)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        (True, int, "x.yml:4: a: expected a whole number, got True"),
        (True, float, "x.yml:4: a: expected a number, got True"),
        (1, bool, "x.yml:4: a: expected true or false, got 1"),
        (1, Literal[True], "x.yml:4: a: expected True, got 1"),
        (1.5, int | None, "x.yml:4: a: expected a whole number, got 1.5"),
        ("x", int | bool, "x.yml:4: a: expected a whole number or true or false, got 'x'"),
        ("abc", Sequence[str], "x.yml:4: a: expected a list, each text, got 'abc'"),
        ([1, "x"], Sequence[int], "x.yml:6: a[1]: expected a whole number, got 'x'"),
        ([1], tuple[int, int], "x.yml:4: a: expected 2 values, got 1: [1]"),
        ({"b": "x"}, dict[str, int], "x.yml:4: a.b: expected a whole number, got 'x'"),
    ],
)
def test_what_does_not_fit_is_refused_at_its_place(value, hint, message):
    with pytest.raises(OptionError) as error:
        convert(value, hint, HERE)
    assert str(error.value) == message


def test_a_place_without_a_line_is_its_file_or_nothing():
    assert str(Location({(): "x.yml"}, ("b", 0, "c"))) == "x.yml: b[0].c"
    assert str(Location({}, ("b",))) == "b"


def test_types_in_words():
    assert describe(Sequence[int] | None) == "a list, each a whole number or null"
    assert describe(tuple[int, str]) == "a list of 2: a whole number, text"


def test_signatures():
    class Widget:
        def __init__(self, base, *parts, size: int, colour: str = "red", **more):
            pass

    hints = signature_hints(Widget, supplied=("base",))
    assert (hints.types, hints.required, hints.accepts_any) == ({"size": int, "colour": str}, {"size"}, True)


def test_an_annotation_that_cannot_be_resolved_checks_nothing():
    def widget(size: "NoSuchType", colour=1):  # noqa: F821
        pass

    assert signature_hints(widget).types == {"size": Any, "colour": Any}
