"""Weighting and reduction of a loss at every position to one number, under BasicSR's names."""

import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

Reduction = Literal["mean", "sum", "none"]


def reduce_loss(loss: Tensor, reduction: Reduction) -> Tensor:
    """Return the mean or the sum of `loss`, or with "none" `loss` itself.

    Raises:
        ValueError: for another reduction.
    """
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction: must be one of {', '.join(get_args(Reduction))}, got {reduction!r}")
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


def weight_reduce_loss(loss: Tensor, weight: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
    """Return `loss` times `weight`, reduced; the mean is the weighted one, 0 where all weights are 0.

    Args:
        loss: of any shape.
        weight: >= 0, broadcastable to `loss`; None: equal weights.
        reduction: "none" keeps one value for each position.
    """
    if weight is None:
        return reduce_loss(loss, reduction)
    weight = weight.to(loss).expand_as(loss)
    if reduction == "mean":
        return (loss * weight).sum() / weight.sum().clamp_min(torch.finfo(loss.dtype).tiny)
    return reduce_loss(loss * weight, reduction)


def get_local_weights(residual: Tensor, ksize: int) -> Tensor:
    """Return the unbiased variance of a residual (B, 1, H, W) in the window of `ksize` (odd) pixels around each pixel.

    The image is mirrored at its edges. Source: Liang et al., Details or Artifacts, CVPR 2022.
    """
    pad = ksize // 2
    windows = functional.pad(residual, (pad, pad, pad, pad), mode="reflect").unfold(2, ksize, 1).unfold(3, ksize, 1)
    return windows.var((-1, -2))


def get_refined_artifact_map(img_gt: Tensor, img_output: Tensor, img_ema: Tensor, ksize: int) -> Tensor:
    """Return weights (B, 1, H, W) of pixels that are artifacts rather than details, for a loss on the output.

    Local variance of the residual, times the fifth root of that of the whole residual; 0 where the output is closer to
    ground truth than that of the averaged network. Source: Liang et al., Details or Artifacts, CVPR 2022.

    Args:
        img_gt: ground truth (B, C, H, W).
        img_output: output of the network that learns.
        img_ema: output of its moving average.
        ksize: side of the windows in pixels, odd.
    """
    residual = (img_gt - img_output).abs().sum(1, keepdim=True)
    residual_of_average = (img_gt - img_ema).abs().sum(1, keepdim=True)
    whole = residual.var((1, 2, 3), keepdim=True) ** 0.2
    return torch.where(residual < residual_of_average, 0, whole * get_local_weights(residual, ksize))


def weighted_loss(loss_func: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorate `f(pred, target, **kwargs)`, a loss at every position, so that it takes `weight` and `reduction` too.

    The result is called as `f(pred, target, weight=None, reduction="mean", **kwargs)`; see `weight_reduce_loss`.
    """

    @functools.wraps(loss_func)
    def wrapper(
        pred: Tensor, target: Tensor, weight: Tensor | None = None, reduction: Reduction = "mean", **kwargs: Any
    ) -> Tensor:
        return weight_reduce_loss(loss_func(pred, target, **kwargs), weight, reduction)

    return wrapper
