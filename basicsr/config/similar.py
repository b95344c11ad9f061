"""Names that an unknown one is probably meant to be: those that differ by a slip, not those of another thing."""

from collections.abc import Iterable
from difflib import SequenceMatcher

from basicsr.config.location import MAX_VALUE_CHARS

MIN_RATIO = 0.8  # difflib's, of whole names; a swapped pair of letters in a word of five has 0.8
MIN_WORD_RATIO = 0.6  # of each word: `calculate_lpips` is not a misspelt `calculate_psnr`
MIN_WORD_CHARS = 3  # shorter words must be equal: `network_d` is not a misspelt `network_g`
MIN_PART_CHARS = 4  # of a name that is a part of another one


def similar_names(name: str, known: Iterable[str], limit: int = 1, parts: bool = True) -> list[str]:
    """Return those of `known` that differ from `name` by a slip, or of which it is a part, the nearest first.

    Args:
        name: as the user wrote it.
        known: the names that exist.
        limit: number of names to return at most.
        parts: count a name that is a part of another one as similar, such as `psnr` of `calculate_psnr`.
    """
    name = name[:MAX_VALUE_CHARS]
    rated = [(_similarity(name, other, parts), other) for other in known]
    return [other for ratio, other in sorted(rated, key=lambda pair: -pair[0]) if ratio >= MIN_RATIO][:limit]


def _similarity(name: str, other: str, parts: bool) -> float:
    """Return how similar two names are, in [0, 1]; 0 where they are of different things."""
    if name.lower() == other.lower():
        return 1.0
    shorter, longer = sorted((name.lower(), other.lower()), key=len)
    if parts and len(shorter) >= MIN_PART_CHARS and shorter in longer:
        return MIN_RATIO + (1 - MIN_RATIO) * len(shorter) / (len(longer) + 1)
    words, others = name.split("_"), other.split("_")
    if len(words) > 1 and len(words) == len(others):
        pairs = [(a, b) for a, b in zip(words, others, strict=True) if a != b]
        if any(min(len(a), len(b)) < MIN_WORD_CHARS or _ratio(a, b) < MIN_WORD_RATIO for a, b in pairs):
            return 0.0
    return _ratio(name, other)


def _ratio(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b).ratio()
