"""Weighting and reduction of a loss at every position to one number, under BasicSR's names."""

import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

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
