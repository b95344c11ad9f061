"""Ranges of numbers among the options, as annotations: `Annotated[int, Range(1, 64)]`.

They stand in the declaration of an option, in a section or in the signature of a registered class. `convert` checks
them, `describe` puts them into messages and docs/options.md. Every range is bounded, so that inf and nan are refused.
Bounds that hold for any use are here; bounds that depend on other options are checked where those are known.
"""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, the ends included unless they are open."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        """Return the range in the notation of intervals, e.g. "[0, 1)"."""
        ends = (f"{end:.6g}".replace("e+", "e").replace("e0", "e") for end in (self.low, self.high))
        return f"{'(' if self.open_low else '['}{', '.join(ends)}{')' if self.open_high else ']'}"


Flag = Annotated[int, Range(0, 1)]  # 1: yes, 0: no
Index = Annotated[int, Range(0, 9999)]  # of a part of a network, from 0
Iteration = Annotated[int, Range(0, 10**9)]
Iterations = Annotated[int, Range(1, 10**9)]
Seed = Annotated[int, Range(0, 10**18)]  # with the rank added, it must fit 64 bits
Scale = Annotated[int, Range(1, 64)]  # upscaling factor
Channels = Annotated[int, Range(1, 65_536)]
Layers = Annotated[int, Range(1, 1000)]  # layers, groups, heads, steps: parts that are built or run one after another
Pixels = Annotated[int, Range(1, 65_536)]  # side of a square
Border = Annotated[int, Range(0, 65_536)]  # px
Images = Annotated[int, Range(1, 65_536)]  # in a batch
Megabytes = Annotated[int, Range(0, 2**30)]
Quality = Annotated[int, Range(1, 100)]  # of a JPEG
Levels = Annotated[float, Range(0, 255)]  # of 8-bit values
Probability = Annotated[float, Range(0, 1)]
Decay = Annotated[float, Range(0, 1, open_high=True)]  # of a moving average, per step
Rate = Annotated[float, Range(0, 1000)]  # learning rate
Weight = Annotated[float, Range(0, 1e9)]  # of a term in a sum
Positive = Annotated[float, Range(0, 1e9, open_low=True)]
Epsilon = Annotated[float, Range(0, 1)]  # added to a denominator
Decibels = Annotated[float, Range(0, 200)]
PixelMean = Annotated[float, Range(-255, 255)]  # of values in [0, 1]
PixelDeviation = Annotated[float, Range(1e-3, 255)]  # of values in [0, 1]
