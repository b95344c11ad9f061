"""Pixel losses and the perceptual loss."""

from typing import Annotated, Any, Literal, get_args

import torch
from torch import Tensor, nn

from basicsr.archs.vgg_arch import VGGFeatures, VGGType
from basicsr.config.ranges import Range, Weight
from basicsr.config.registry import LOSS_REGISTRY
from basicsr.losses.loss_util import Reduction, weight_reduce_loss

Criterion = Literal["l1", "l2", "fro"]


class PixelLoss(nn.Module):
    """A distance between pixels, weighted and reduced; subclasses define it.

    Args:
        loss_weight: factor on the result.
        reduction: "none" keeps one value for each pixel and channel.

    Shape:
        pred, target: any, but equal. weight: broadcastable to it, >= 0; "mean" then is the weighted mean, 0 where all
        weights are 0. output: scalar, or that of `pred` for "none".

    Raises:
        ValueError: for an unknown reduction, or when `pred` and `target` differ in shape.
    """

    def __init__(self, loss_weight: Weight = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__()
        if reduction not in get_args(Reduction):
            raise ValueError(f"reduction: must be one of {', '.join(get_args(Reduction))}, got {reduction!r}")
        self.loss_weight = loss_weight
        self.reduction = reduction

    def distance(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the distance at every position, >= 0."""
        raise NotImplementedError

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return the weighted, reduced distance; `kwargs` are for other losses called in the same way."""
        if pred.shape != target.shape:
            name = type(self).__name__
            raise ValueError(f"{name}: the images differ in shape, got {tuple(pred.shape)} and {tuple(target.shape)}")
        return self.loss_weight * weight_reduce_loss(self.distance(pred, target), weight, self.reduction)


@LOSS_REGISTRY.register()
class L1Loss(PixelLoss):
    """Absolute difference: |pred - target|. Arguments and shapes: see `PixelLoss`."""

    def distance(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the distance at every position, >= 0."""
        return (pred - target).abs()


@LOSS_REGISTRY.register()
class MSELoss(PixelLoss):
    """Squared difference: (pred - target)^2. Arguments and shapes: see `PixelLoss`."""

    def distance(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the distance at every position, >= 0."""
        return (pred - target).square()


@LOSS_REGISTRY.register()
class CharbonnierLoss(PixelLoss):
    """Smooth absolute difference: sqrt((pred - target)^2 + eps). Shapes: see `PixelLoss`.

    Args:
        loss_weight: factor on the result.
        reduction: "none" keeps one value for each pixel and channel.
        eps: the loss of equal images is its root.

    Source: Lai et al., LapSRN, CVPR 2017, section 3.3. Note: the paper's epsilon (1e-3) is squared; this one is not.
    """

    def __init__(
        self,
        loss_weight: Weight = 1.0,
        reduction: Reduction = "mean",
        eps: Annotated[float, Range(0, 1, open_low=True)] = 1e-12,
    ) -> None:
        super().__init__(loss_weight=loss_weight, reduction=reduction)
        if eps <= 0:
            raise ValueError(f"eps: must be above 0, got {eps}; at 0 the gradient of equal pixels is not finite")
        self.eps = eps

    def distance(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the distance at every position, > 0."""
        return ((pred - target).square() + self.eps).sqrt()


@LOSS_REGISTRY.register()
class WeightedTVLoss(L1Loss):
    """Total variation: absolute differences of neighbours, below and to the right. It needs no target.

    Args:
        loss_weight: factor on the result.
        reduction: "mean" is the sum of the means of both directions; "none" is not possible.

    Raises:
        ValueError: for another reduction.
    """

    needs_target = False

    def __init__(self, loss_weight: Weight = 1.0, reduction: Literal["mean", "sum"] = "mean") -> None:
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction: must be mean or sum, got {reduction!r}")
        super().__init__(loss_weight=loss_weight, reduction=reduction)

    def forward(self, pred: Tensor, weight: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return the weighted, reduced variation.

        Args:
            pred: (B, C, H, W).
            weight: of each pixel, (B, 1, H, W) or of the shape of `pred`; a difference has that of its first pixel.
        """
        down, right = (None, None) if weight is None else (weight[:, :, :-1], weight[..., :-1])
        vertical = super().forward(pred[:, :, :-1], pred[:, :, 1:], down)
        return vertical + super().forward(pred[..., :-1], pred[..., 1:], right)


@LOSS_REGISTRY.register()
class PerceptualLoss(nn.Module):
    """Distance between the VGG features of two images, plus that of their Gram matrices (style).

    Args:
        layer_weights: layer name (`conv5_4`, `relu1_2`, ...) -> its factor.
        weights: path of a torchvision VGG state dict; None: torchvision's cached file, or that of an old project in
            `experiments/pretrained_models`. Nothing is downloaded.
        vgg_type: the torchvision network that `weights` belongs to.
        use_input_norm: subtract ImageNet's mean and divide by its deviation first, as the network was trained.
        range_norm: images are in [-1, 1], not [0, 1].
        perceptual_weight: factor on the distance of features; 0: off.
        style_weight: factor on the distance of Gram matrices; 0: off.
        criterion: "l1" and "l2" are means of |d| and d^2; "fro" is the Frobenius norm of d over the whole batch.

    Shape:
        pred, target: (B, 3, H, W). output: scalar >= 0.

    Raises:
        CheckpointError: when `weights` is missing, damaged or of another network.
        ValueError: for an unknown layer, network or criterion.

    Source: Johnson et al., "Perceptual losses", ECCV 2016; Gram matrices divided by C*H*W as there (section 3.2).
    """

    def __init__(
        self,
        *,
        layer_weights: dict[str, Weight],
        weights: str | None = None,
        vgg_type: VGGType = "vgg19",
        use_input_norm: bool = True,
        range_norm: bool = False,
        perceptual_weight: Weight = 1.0,
        style_weight: Weight = 0.0,
        criterion: Criterion = "l1",
    ) -> None:
        super().__init__()
        if criterion not in get_args(Criterion):
            raise ValueError(f"criterion: must be one of {', '.join(get_args(Criterion))}, got {criterion!r}")
        self.layer_weights = dict(layer_weights)
        self.perceptual_weight = perceptual_weight
        self.style_weight = style_weight
        self.criterion = criterion
        self.vgg = VGGFeatures(
            layers=list(layer_weights),
            weights=weights,
            vgg_type=vgg_type,
            use_input_norm=use_input_norm,
            range_norm=range_norm,
        )

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return `perceptual_weight` * features + `style_weight` * Gram matrices; only `pred` gets a gradient."""
        parts = [part for part in self.parts(pred, target) if part is not None]
        return sum(parts, pred.new_zeros(()))

    def parts(self, pred: Tensor, target: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the two weighted terms, of features and of Gram matrices; None for one whose weight is 0."""
        features = self.vgg(pred)
        with torch.no_grad():
            target_features = self.vgg(target)
        pairs = [(factor, features[layer], target_features[layer]) for layer, factor in self.layer_weights.items()]
        perceptual = style = None
        if self.perceptual_weight > 0:
            distances = (factor * self._distance(x, y) for factor, x, y in pairs)
            perceptual = self.perceptual_weight * sum(distances, pred.new_zeros(()))
        if self.style_weight > 0:
            distances = (factor * self._distance(_gram(x), _gram(y)) for factor, x, y in pairs)
            style = self.style_weight * sum(distances, pred.new_zeros(()))
        return perceptual, style

    def _distance(self, x: Tensor, y: Tensor) -> Tensor:
        difference = x - y
        if self.criterion == "l1":
            return difference.abs().mean()
        return difference.square().mean() if self.criterion == "l2" else torch.linalg.vector_norm(difference)


def _gram(features: Tensor) -> Tensor:
    """Return the correlations of channels, divided by C*H*W, (B, C, C), of features (B, C, H, W)."""
    x = features.flatten(2)
    return x @ x.transpose(1, 2) / (x.shape[1] * x.shape[2])
