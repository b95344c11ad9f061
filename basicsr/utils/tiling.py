"""Images in tiles, for when memory does not suffice for the whole."""

import logging
import re
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

logger = logging.getLogger("basicsr")
OVERLAP = 32  # px of the input that neighbouring tiles share
SMALLEST = 64  # px: side of the smallest tiles tried
# As PyTorch says it on CPU (Linux, Windows) and MPS, C++ itself, and oneDNN. On CUDA the error has a type of its own.
_FULL = re.compile(
    r"can't allocate memory|not enough memory|out of memory|bad[ _]alloc|could not create a (primitive|memory)",
    re.IGNORECASE,
)

Predict = Callable[[Tensor], Tensor]


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


def predict_in_tiles(predict: Predict, lq: Tensor, tile: int, overlap: int = OVERLAP) -> Tensor:
    """What `predict` makes of `lq` tile by tile, put together on the CPU.

    Equal to `predict(lq)` where no pixel of the output depends on what is over `overlap` / 2 px away in the input. What
    looks farther (attention over the whole image, normalisation by its statistics) gives slightly other values.

    Args:
        predict: maps (B, C, h, w) to (B, D, s*h, s*w) for one whole number s.
        tile: side of the square tiles in px of the input.
        overlap: px of the input that neighbouring tiles share at least.

    Shape:
        lq: (B, C, H, W). Output: (B, D, s*H, s*W).
    """
    height, width = lq.shape[-2:]
    output: Tensor | None = None
    for y in spans(height, tile, overlap):
        for x in spans(width, tile, overlap):
            part = predict(lq[..., y.start : y.stop, x.start : x.stop])
            s = part.shape[-1] // (x.stop - x.start)
            if output is None:
                output = torch.empty(*part.shape[:2], s * height, s * width, dtype=part.dtype)
            rows = slice(s * (y.keep_start - y.start), s * (y.keep_stop - y.start))
            columns = slice(s * (x.keep_start - x.start), s * (x.keep_stop - x.start))
            output[..., s * y.keep_start : s * y.keep_stop, s * x.keep_start : s * x.keep_stop] = part[
                ..., rows, columns
            ].cpu()
    if output is None:
        raise ValueError(f"predict_in_tiles: needs an image, got shape {tuple(lq.shape)}")
    return output


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory did not suffice, of a GPU or of the machine."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and _FULL.search(str(error)) is not None


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
                reason = (str(error).splitlines() or [type(error).__name__])[0]
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
                "Out of memory for an image of %dx%d px (%s); doing it in tiles of %d px, which may change its score "
                "where the network looks farther than %d px", width, height, reason, tile, OVERLAP // 2
            )  # fmt: skip

    return run
