"""Images in tiles, for when memory does not suffice for the whole.

`bands_of` is the one way through the tiles: it cuts their borders off, blends what neighbours share, and gives the rows
of the output from top to bottom, so that nobody has to hold all of it. `predict_in_tiles` puts them together;
`tiles_when_full` resorts to it when memory ran out.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from basicsr.engine.device import is_out_of_memory
from basicsr.errors import first_line

logger = logging.getLogger("basicsr")
OVERLAP = 32  # px of the input that neighbouring tiles share
SMALLEST = 64  # px: side of the smallest tiles tried

Predict = Callable[[Tensor], Tensor]
Crop = Callable[[slice, slice], Tensor]


class Span(NamedTuple):
    """Where a tile lies along an axis, and what of it is kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def spans(side: int, tile: int, overlap: int) -> list[Span]:
    """Tiles of `tile` px, evenly spread, sharing at least `overlap` px; each keeps up to the middle of what it shares.

    A side shorter than a tile is one tile.

    Raises:
        ValueError: when a tile is not longer than the overlap.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap: must be in [0, tile), got {overlap} for tiles of {tile}")
    if side <= tile:
        return [Span(0, side, 0, side)]
    count = -(-(side - overlap) // (tile - overlap))
    starts = [i * (side - tile) // (count - 1) for i in range(count)]
    cuts = [0, *((a + tile + b) // 2 for a, b in pairwise(starts)), side]
    return [Span(a, a + tile, *cuts[i : i + 2]) for i, a in enumerate(starts)]


def bands_of(
    predict: Predict, crop: Crop, size: tuple[int, int], tile: int, overlap: int = OVERLAP, feather: int = 0
) -> Iterator[Tensor]:
    """What `predict` makes of an image tile by tile, in bands of rows from top to bottom, on the CPU.

    Where two tiles meet, each goes up to the middle of what they share; over `feather` px around that line the output
    passes linearly from one to the other. The values are interpolated, not summed up with weights, so where both tiles
    agree the result is theirs bit for bit.

    Equal to `predict` of the whole where no pixel of the output depends on what is over (`overlap` - `feather`) / 2 px
    away in the input. What looks farther (attention over the whole image, normalisation by its statistics) gives
    slightly other values.

    Args:
        predict: maps (B, C, h, w) to (B, D, s*h, s*w) for one whole number s.
        crop: the rows and columns of the image that two slices name, (B, C, h, w).
        size: (H, W) of the image in px, at least 1.
        tile: side of the square tiles in px of the input.
        overlap: px of the input that neighbouring tiles share at least, less than `tile`.
        feather: px of the input that a transition is wide, at most `overlap`; 0: hard cuts.

    Shape:
        (B, D, s*rows, s*W) each, good until the next one is asked for, which takes its memory; the rows of all bands
        are s*H.

    Raises:
        ValueError: for an image without pixels, or sizes that do not fit each other.
    """
    height, width = size
    if min(size) < 1:
        raise ValueError(f"bands_of: needs an image, got one of {width}x{height} px")
    if not 0 <= feather <= overlap:
        raise ValueError(f"feather: must be in [0, overlap], got {feather} for an overlap of {overlap}")
    rows, columns = spans(height, tile, overlap), spans(width, tile, overlap)
    rows_feather, columns_feather = _fitting(feather, rows), _fitting(feather, columns)
    below: Tensor | None = None  # the rows that the next band shares with the last one
    # One for all bands: allocators that keep freed memory scatter small blocks in it, and the next band finds no room.
    memory: Tensor | None = None
    tallest = max(y.keep_stop - y.keep_start for y in _widened(rows, rows_feather))
    for y in _widened(rows, rows_feather):
        band: Tensor | None = None
        for x in _widened(columns, columns_feather):
            part = predict(crop(slice(y.start, y.stop), slice(x.start, x.stop))).detach()
            s = part.shape[-1] // (x.stop - x.start)
            part = part[..., s * (y.keep_start - y.start) : s * (y.keep_stop - y.start), :]
            part = part[..., s * (x.keep_start - x.start) : s * (x.keep_stop - x.start)].cpu()
            if len(rows) == len(columns) == 1:
                yield part
                return
            if memory is None:
                memory = part.new_empty(*part.shape[:-2], s * tallest, s * width)
            if band is None:
                band = memory[..., : part.shape[-2], :]
            target = band[..., s * x.keep_start : s * x.keep_stop]
            shared = s * columns_feather if x.keep_start > 0 else 0
            _pass_over(target[..., :shared], part[..., :shared], -1)
            target[..., shared:] = part[..., shared:]
            del part
        if band is None:  # there is at least one tile
            continue
        if below is not None:
            band[..., : below.shape[-2], :] = _pass_over(below, band[..., : below.shape[-2], :], -2)
        done = band.shape[-2] - (s * rows_feather if y.keep_stop < height else 0)
        below = band[..., done:, :].clone() if y.keep_stop < height else None
        yield band[..., :done, :]


def predict_in_tiles(predict: Predict, lq: Tensor, tile: int, overlap: int = OVERLAP, feather: int = 0) -> Tensor:
    """What `predict` makes of `lq` tile by tile, put together on the CPU; see `bands_of`.

    Shape:
        lq: (B, C, H, W). Output: (B, D, s*H, s*W).
    """
    height, width = lq.shape[-2:]
    output: Tensor | None = None
    top = 0
    for band in bands_of(predict, lambda y, x: lq[..., y, x], (height, width), tile, overlap, feather):
        if output is None:
            output = band.new_empty(*band.shape[:2], band.shape[-1] // width * height, band.shape[-1])
        output[..., top : top + band.shape[-2], :] = band
        top += band.shape[-2]
    if output is None:
        raise ValueError(f"predict_in_tiles: needs an image, got shape {tuple(lq.shape)}")
    return output


def _fitting(feather: int, along: Sequence[Span]) -> int:
    """The widest even transition, up to `feather` px, that lies within what all neighbours share and meets no other."""
    room = [b.keep_stop - b.keep_start for b in along[1:-1]]
    return min([feather, *room]) // 2 * 2


def _widened(along: Sequence[Span], feather: int) -> list[Span]:
    """The same tiles, keeping half a transition more on the sides where they have neighbours."""
    first, last, half = along[0], along[-1], feather // 2
    return [
        span._replace(
            keep_start=span.keep_start - (half if span is not first else 0),
            keep_stop=span.keep_stop + (half if span is not last else 0),
        )
        for span in along
    ]


def _pass_over(old: Tensor, new: Tensor, dim: int) -> Tensor:
    """Pass along `dim` from `old`, in place, to `new`; exactly `old` where they are equal."""
    steps = old.shape[dim]
    ramp = (torch.arange(steps, dtype=torch.float32) + 0.5).div_(max(steps, 1)).to(old.dtype)
    return old.lerp_(new, ramp if dim == -1 else ramp[:, None])


def tiles_when_full(predict: Predict) -> Predict:
    """`predict`, but an image that memory does not suffice for is done in tiles, which a message says.

    Tiles are at first half as large as the image and are halved down to `SMALLEST` px until one fits. As large an image
    that comes later is done in tiles of the size that did, without trying it whole.

    Raises:
        MemoryError: from the result, when not even the smallest tiles fit.
    """
    too_large: int | None = None  # px of the smallest image that did not fit
    fitting = 0  # side of the tiles that did

    def run(lq: Tensor) -> Tensor:
        nonlocal too_large, fitting
        height, width = lq.shape[-2:]
        area = height * width
        tile = fitting if too_large is not None and area >= too_large else None
        while True:
            try:
                return predict(lq) if tile is None else predict_in_tiles(predict, lq, tile)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = first_line(error)
            # Only here, for the error's traceback holds on to what was computed.
            if tile is None:
                too_large = area if too_large is None else min(area, too_large)
            tile = max(SMALLEST, (max(height, width) if tile is None else tile) // 2)
            if tile == fitting or tile >= max(height, width):
                raise MemoryError(
                    f"an image of {width}x{height} px does not fit into memory, not even in tiles of {fitting or tile} "
                    f"px ({reason}); free some memory, or test on a machine with more"
                )
            fitting = tile
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            logger.error(
                "Out of memory for an image of %dx%d px (%s); doing it in tiles of %d px, which changes the result "
                "a little where the network looks farther than %d px", width, height, reason, tile, OVERLAP // 2
            )  # fmt: skip

    return run
