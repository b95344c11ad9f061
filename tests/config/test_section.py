"""The keyword arguments of a callable as type hints."""

from typing import Any

from basicsr.config.section import signature_hints


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
