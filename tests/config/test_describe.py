from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest

from basicsr.config.describe import describe
from basicsr.config.ranges import Decay, Probability, Scale
from basicsr.config.schema import NetworkSpec, PathOptions


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "a whole number"),
        (Sequence[int] | None, "a list of whole numbers or null"),
        (None | float, "a number or null"),
        (tuple[int, str], "a list of 2: a whole number, text"),
        (list[tuple[float, float]], "a list of lists of 2 numbers"),
        (list[bool], "a list of values, each true or false"),
        (tuple[str, ...], "a list of texts"),
        (Literal["a", "b"] | int | None, "'a', 'b', a whole number or null"),
        (Mapping[str, int], "keys and values, each a whole number"),
        (dict[str, Any], "keys and values"),
        (Probability, "a number in [0, 1]"),
        (Scale | None, "a whole number in [1, 64] or null"),
        (Sequence[tuple[Decay, Decay]], "a list of lists of 2 numbers in [0, 1)"),
        (list, "a list"),
        (Any, "anything"),
        (NetworkSpec, "{type: <architecture>, ...}"),
        (PathOptions, "a section"),
    ],
)
def test_types_in_words(hint, words):
    assert describe(hint) == words
