"""The forward of inference: a network in its fastest form, for images of any size, averaged over turns if asked for."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.images.self_ensemble import self_ensemble as mean_over_turns

Forward = Callable[[Tensor], Tensor]


def inference_forward(net: nn.Module, dtype: torch.dtype, upscale: int, self_ensemble: bool) -> Forward:
    """Return the function that maps (B, C, h, w) to (B, C, s*h, s*w), for any h and w.

    Args:
        net: in evaluation, on its device. Its `prepared` form is taken where it has one in `dtype`, else autocast.
        dtype: float32, bfloat16 or float16.
        upscale: s.
        self_ensemble: take the mean over the 8 flips and rotations of the input.
    """
    forward = _in_dtype(net, dtype)
    forward = _padded(forward, getattr(net, "min_side", 1), getattr(net, "multiple_of", 1), upscale)
    return partial(mean_over_turns, forward) if self_ensemble else forward


def _in_dtype(net: nn.Module, dtype: torch.dtype) -> Forward:
    prepare = getattr(net, "prepared", None)
    if callable(prepare) and dtype != torch.float16:  # prepared forms are float32 and bfloat16
        return prepare(dtype)
    if dtype == torch.float32:
        return net

    def forward(lq: Tensor) -> Tensor:
        with torch.autocast(lq.device.type, dtype):
            return net(lq)

    return forward


def _padded(forward: Forward, min_side: int, multiple: int, upscale: int) -> Forward:
    """Repeat the edges of the input up to a size that `forward` takes, and crop its output."""
    if min_side <= 1 and multiple <= 1:
        return forward

    def padded(lq: Tensor) -> Tensor:
        height, width = lq.shape[-2:]
        missing = [-(-max(side, min_side) // multiple) * multiple - side for side in (height, width)]
        lq = F.pad(lq, (0, missing[1], 0, missing[0]), mode="replicate")
        return forward(lq)[..., : upscale * height, : upscale * width]

    return padded
