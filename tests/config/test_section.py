"""The keyword arguments of a callable as type hints."""

from typing import Any

import pytest

from basicsr.config.section import signature_hints


def test_signatures():
    class Widget:
        def __init__(self, base, *parts, size: int, colour: str = "red", **more):
            pass

    hints = signature_hints(Widget, supplied=("base",))
    assert (hints.types, hints.required, hints.accepts_any) == ({"size": int, "colour": str}, {"size"}, True)


@pytest.mark.parametrize("annotation", ["NoSuchType", "a list of int", "int.none", "1 + None"])
def test_arguments_are_not_checked_if_an_annotation_cannot_be_resolved(annotation):
    def widget(size, colour: int = 1):
        pass

    widget.__annotations__["size"] = annotation
    assert signature_hints(widget).types == {"size": Any, "colour": Any}
