"""Losses of adversarial training: what generator and discriminator minimise, and penalties on gradients."""

import math
from typing import Annotated, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.config.ranges import Range, Weight
from basicsr.config.registry import LOSS_REGISTRY

Label = Annotated[float, Range(-100, 100)]
GANType = Literal["vanilla", "lsgan", "wgan", "wgan_softplus", "hinge"]


@LOSS_REGISTRY.register()
class GANLoss(nn.Module):
    """How far the scores of a discriminator are from those of real, or of made, images.

    Args:
        gan_type: vanilla: cross-entropy of the sigmoid; lsgan: squared distance; wgan: the mean score, negative for
            real ones; wgan_softplus: its soft form; hinge: beyond a margin of 1 the discriminator is content.
        real_label_val: score that stands for real (vanilla, lsgan).
        fake_label_val: score that stands for made (vanilla, lsgan).
        loss_weight: factor on the generator's loss; the discriminator's has none.

    Raises:
        ValueError: for an unknown type.

    Source: Goodfellow et al. 2014; Mao et al. 2017 (lsgan); Arjovsky et al. 2017 (wgan); Karras et al. 2019
        (wgan_softplus); Lim and Ye 2017 (hinge).
    """

    def __init__(
        self,
        gan_type: GANType = "vanilla",
        real_label_val: Label = 1.0,
        fake_label_val: Label = 0.0,
        loss_weight: Weight = 1.0,
    ) -> None:
        super().__init__()
        if gan_type not in get_args(GANType):
            raise ValueError(f"gan_type: must be one of {', '.join(get_args(GANType))}, got {gan_type!r}")
        self.gan_type = gan_type
        self.real_label_val = real_label_val
        self.fake_label_val = fake_label_val
        self.loss_weight = loss_weight

    def forward(self, scores: Tensor, target_is_real: bool, is_disc: bool = False) -> Tensor:
        """Return the loss, a scalar.

        Args:
            scores: of a discriminator, any shape.
            target_is_real: the images should count as real; for the generator that is what its own should do.
            is_disc: the loss is the discriminator's.
        """
        loss = self._distance(scores, target_is_real, is_disc)
        return loss if is_disc else self.loss_weight * loss

    def _distance(self, scores: Tensor, target_is_real: bool, is_disc: bool) -> Tensor:
        signed = scores if target_is_real else -scores
        if self.gan_type == "wgan":
            return -signed.mean()
        if self.gan_type == "wgan_softplus":
            return F.softplus(-signed).mean()
        if self.gan_type == "hinge":
            return F.relu(1 - signed).mean() if is_disc else -signed.mean()
        label = torch.full_like(scores, self.real_label_val if target_is_real else self.fake_label_val)
        distance = F.mse_loss if self.gan_type == "lsgan" else F.binary_cross_entropy_with_logits
        return distance(scores, label)


def r1_penalty(real_pred: Tensor, real_img: Tensor) -> Tensor:
    """Return the mean squared norm of the gradient of the scores of real images with respect to them.

    Args:
        real_pred: scores, any shape, computed from `real_img`.
        real_img: (B, ...), which requires a gradient.

    Source: Mescheder et al., "Which training methods for GANs do actually converge?", ICML 2018, eq. 9.
    """
    (gradient,) = torch.autograd.grad(real_pred.sum(), real_img, create_graph=True)
    return gradient.flatten(1).square().sum(1).mean()


def gradient_penalty_loss(
    discriminator: nn.Module, real_data: Tensor, fake_data: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Return the mean of (|gradient| - 1)^2 at random points between real and made images.

    Args:
        discriminator: gives scores of images.
        real_data: (B, C, H, W).
        fake_data: of that shape.
        weight: factor on the gradient at each pixel, broadcastable to the images; its mean then divides the result.

    Source: Gulrajani et al., WGAN-GP, NeurIPS 2017. The norm is that over the channels of each pixel.
    """
    share = torch.rand(len(real_data), 1, 1, 1, dtype=real_data.dtype, device=real_data.device)
    between = torch.lerp(fake_data.detach(), real_data.detach(), share).requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
    gradient = gradient if weight is None else gradient * weight
    penalty = (torch.linalg.vector_norm(gradient, dim=1) - 1).square().mean()
    return penalty if weight is None else penalty / weight.mean()


def g_path_regularize(
    fake_img: Tensor, latents: Tensor, mean_path_length: Tensor | float, decay: float = 0.01
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the path length penalty of StyleGAN2, the mean length of this batch, and the new running mean.

    Args:
        fake_img: (B, C, H, W), made from `latents`.
        latents: (B, layers, D), which require a gradient.
        mean_path_length: the running mean.
        decay: share of this batch in the new running mean.

    Source: Karras et al., StyleGAN2, CVPR 2020, section 3.2.
    """
    noise = torch.randn_like(fake_img) / math.sqrt(fake_img.shape[2] * fake_img.shape[3])
    (gradient,) = torch.autograd.grad((fake_img * noise).sum(), latents, create_graph=True)
    lengths = gradient.square().sum(2).mean(1).sqrt()
    mean = torch.lerp(torch.as_tensor(mean_path_length).to(lengths), lengths.mean(), decay)
    return (lengths - mean).square().mean(), lengths.detach().mean(), mean.detach()
