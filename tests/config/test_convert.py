"""Conversion of plain values to typed ones, with types that the published option files do not use."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest

from basicsr.config.convert import convert
from basicsr.config.location import Location
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
def test_values_are_converted(value, hint, expected):
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
        ("abc", Sequence[str], "x.yml:4: a: expected a list of texts, got 'abc'"),
        ([1, "x"], Sequence[int], "x.yml:6: a[1]: expected a whole number, got 'x'"),
        ([1], tuple[int, int], "x.yml:4: a: expected 2 values, got 1: [1]"),
        ({"b": "x"}, dict[str, int], "x.yml:4: a.b: expected a whole number, got 'x'"),
    ],
)
def test_values_that_do_not_fit_are_rejected_with_their_location(value, hint, message):
    with pytest.raises(OptionError) as error:
        convert(value, hint, HERE)
    assert str(error.value) == message
