"""Images in tiles, for when memory does not suffice for the whole.

`bands_of` is the one loop over tiles: it crops their borders, blends the overlap of neighbours, and yields the rows of
the output from top to bottom, so that no caller has to hold all of it. `predict_in_tiles` puts them together;
`tiles_when_full` falls back to it when memory ran out.
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
MIN_TILE = 64  # px: side of the smallest tiles tried

Predict = Callable[[Tensor], Tensor]
Crop = Callable[[slice, slice], Tensor]


class Span(NamedTuple):
    """The place of a tile along an axis, and the part of it that is kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def spans(side: int, tile: int, overlap: int) -> list[Span]:
    """Return tiles of `tile` px, evenly spread, that share at least `overlap` px; each keeps half of every overlap.

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
    """Yield the output of `predict` for an image, tile by tile, in bands of rows from top to bottom, on the CPU.

    Two tiles meet in the middle of their overlap; over `feather` px around that line the output passes linearly from
    one to the other. The values are interpolated, not summed with weights, so where both tiles agree the result is
    theirs bit for bit.

    Equal to `predict` of the whole where no pixel of the output depends on pixels of the input that are more than
    (`overlap` - `feather`) / 2 px away. Networks that look farther (attention over the whole image, normalisation by
    its statistics) give slightly other values.

    Args:
        predict: maps (B, C, h, w) to (B, D, s*h, s*w) for one whole number s.
        crop: the rows and columns of the image that two slices name, (B, C, h, w).
        size: (H, W) of the image in px, at least 1.
        tile: side of the square tiles in px of the input.
        overlap: px of the input that neighbouring tiles share at least, less than `tile`.
        feather: width of the transition in px of the input, at most `overlap`; 0: hard cuts.

    Shape:
        (B, D, s*rows, s*W) each, valid until the next one, which reuses its memory; all bands together have s*H rows.

    Raises:
        ValueError: for an image without pixels, or sizes that do not fit each other.
    """
    height, width = size
    if min(size) < 1:
        raise ValueError(f"bands_of: needs an image, got one of {width}x{height} px")
    if not 0 <= feather <= overlap:
        raise ValueError(f"feather: must be in [0, overlap], got {feather} for an overlap of {overlap}")
    rows, columns = spans(height, tile, overlap), spans(width, tile, overlap)
    rows_feather, columns_feather = _max_feather(feather, rows), _max_feather(feather, columns)
    rows, columns = _widened(rows, rows_feather), _widened(columns, columns_feather)
    below: Tensor | None = None  # the rows that the next band shares with the last one
    # One for all bands: allocators that keep freed memory put small blocks into it, and the next band no longer fits.
    memory: Tensor | None = None
    tallest = max(y.keep_stop - y.keep_start for y in rows)
    for y in rows:
        band: Tensor | None = None
        for x in columns:
            part = _kept(predict(crop(slice(y.start, y.stop), slice(x.start, x.stop))).detach(), y, x)
            s = part.shape[-1] // (x.keep_stop - x.keep_start)
            if len(rows) == len(columns) == 1:
                yield part
                return
            if memory is None:
                memory = part.new_empty(*part.shape[:-2], s * tallest, s * width)
            if band is None:
                band = memory[..., : part.shape[-2], :]
            target = band[..., s * x.keep_start : s * x.keep_stop]
            shared = s * columns_feather if x.keep_start > 0 else 0
            _blend(target[..., :shared], part[..., :shared], -1)
            target[..., shared:] = part[..., shared:]
            del part
        if band is None:  # there is at least one tile
            continue
        if below is not None:
            band[..., : below.shape[-2], :] = _blend(below, band[..., : below.shape[-2], :], -2)
        done = band.shape[-2] - (s * rows_feather if y.keep_stop < height else 0)
        below = band[..., done:, :].clone() if y.keep_stop < height else None
        yield band[..., :done, :]


def _kept(output: Tensor, y: Span, x: Span) -> Tensor:
    """Return the part of a tile's output that is kept, on the CPU."""
    s = output.shape[-1] // (x.stop - x.start)
    output = output[..., s * (y.keep_start - y.start) : s * (y.keep_stop - y.start), :]
    return output[..., s * (x.keep_start - x.start) : s * (x.keep_stop - x.start)].cpu()


def predict_in_tiles(predict: Predict, lq: Tensor, tile: int, overlap: int = OVERLAP, feather: int = 0) -> Tensor:
    """Return the output of `predict` for `lq` tile by tile, put together on the CPU; see `bands_of`.

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


def _max_feather(feather: int, along: Sequence[Span]) -> int:
    """Return the widest even transition, up to `feather` px, that overlaps no other transition."""
    room = [b.keep_stop - b.keep_start for b in along[1:-1]]
    return min([feather, *room]) // 2 * 2


def _widened(along: Sequence[Span], feather: int) -> list[Span]:
    """Return the same tiles, keeping half a transition more on the sides where they have neighbours."""
    first, last, half = along[0], along[-1], feather // 2
    return [
        span._replace(
            keep_start=span.keep_start - (half if span is not first else 0),
            keep_stop=span.keep_stop + (half if span is not last else 0),
        )
        for span in along
    ]


def _blend(old: Tensor, new: Tensor, dim: int) -> Tensor:
    """Pass linearly along `dim` from `old`, in place, to `new`; exactly `old` where they are equal."""
    steps = old.shape[dim]
    ramp = (torch.arange(steps, dtype=torch.float32) + 0.5).div_(max(steps, 1)).to(old.dtype)
    return old.lerp_(new, ramp if dim == -1 else ramp[:, None])


def tiles_when_full(predict: Predict) -> Predict:
    """Return `predict`, but with tiles, and a message, for images that do not fit into memory.

    Tiles are at first half as large as the image and are halved down to `MIN_TILE` px until one fits. Later images of
    this size or more go straight into tiles of the size that fitted.

    Raises:
        MemoryError: (the returned function) when not even the smallest tiles fit.
    """
    too_large: int | None = None  # px of the smallest image that did not fit
    fitting = 0  # side of the tiles that fitted

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
            # Only here, because the error's traceback keeps tensors alive.
            if tile is None:
                too_large = area if too_large is None else min(area, too_large)
            tile = max(MIN_TILE, (max(height, width) if tile is None else tile) // 2)
            if tile == fitting or tile >= max(height, width):
                raise MemoryError(
                    f"an image of {width}x{height} px does not fit into memory, not even in tiles of {fitting or tile} "
                    f"px ({reason}); free some memory, or test on a machine with more"
                )
            fitting = tile
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            effect = f"which changes the result a little where the network looks farther than {OVERLAP // 2} px"
            size = f"{width}x{height} px"
            logger.error(
                "Out of memory for an image of %s (%s); doing it in tiles of %d px, %s", size, reason, tile, effect
            )

    return run
