"""Gaussian and Poisson noise on arrays and on batches, as BasicSR 1.4 has them.

Random numbers come from NumPy's global generator, and for the functions `*_pt` from PyTorch's. Arrays are images
(H, W, C) of floats in [0, 1], BGR where colour matters; tensors are (B, C, H, W), RGB. `sigma` is in units of 1/255.
"""

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from basicsr.images.blur_kernels import Range, draw_uniform

GRAY_FROM_RGB = (0.2989, 0.587, 0.114)


def generate_gaussian_noise(img: np.ndarray, sigma: float = 10, gray_noise: bool = False) -> np.ndarray:
    """Return Gaussian noise of the shape of `img`, float32; gray noise is the same in all channels."""
    shape = (*img.shape[:2], 1) if gray_noise else img.shape
    noise = np.random.randn(*shape).astype(np.float32) * sigma / 255
    return np.broadcast_to(noise, img.shape).astype(np.float32)


def add_gaussian_noise(
    img: np.ndarray, sigma: float = 10, clip: bool = True, rounds: bool = False, gray_noise: bool = False
) -> np.ndarray:
    """Return `img` with Gaussian noise. `clip` limits it to [0, 1], `rounds` rounds it to multiples of 1/255."""
    return _rounded_and_clipped(img + generate_gaussian_noise(img, sigma, gray_noise), clip, rounds)


def random_generate_gaussian_noise(img: np.ndarray, sigma_range: Range = (0, 10), gray_prob: float = 0) -> np.ndarray:
    """Return Gaussian noise of a random `sigma`, gray with probability `gray_prob`."""
    return generate_gaussian_noise(img, draw_uniform(sigma_range), np.random.uniform() < gray_prob)


def random_add_gaussian_noise(
    img: np.ndarray, sigma_range: Range = (0, 1.0), gray_prob: float = 0, clip: bool = True, rounds: bool = False
) -> np.ndarray:
    """Return `img` with Gaussian noise of a random `sigma`."""
    return _rounded_and_clipped(img + random_generate_gaussian_noise(img, sigma_range, gray_prob), clip, rounds)


def generate_poisson_noise(img: np.ndarray, scale: float = 1.0, gray_noise: bool = False) -> np.ndarray:
    """Return the shot noise of `img`, float32, times `scale`; gray noise is that of the gray image, in all channels.

    Values are counts of the number of levels in the image, rounded up to a power of two, as in scikit-image.
    """
    source = cv2.cvtColor(img, cv2.COLOR_BGR2GRAY)[..., None] if gray_noise else img
    source = np.clip((source * 255.0).round(), 0, 255) / 255.0
    steps = _power_of_two(len(np.unique(source)))
    noise = (np.random.poisson(source * steps) / float(steps) - source).astype(np.float32)
    return np.broadcast_to(noise, img.shape) * np.float32(scale)


def add_poisson_noise(
    img: np.ndarray, scale: float = 1.0, clip: bool = True, rounds: bool = False, gray_noise: bool = False
) -> np.ndarray:
    """Return `img` with shot noise; see `generate_poisson_noise`."""
    return _rounded_and_clipped(img + generate_poisson_noise(img, scale, gray_noise), clip, rounds)


def random_generate_poisson_noise(img: np.ndarray, scale_range: Range = (0, 1.0), gray_prob: float = 0) -> np.ndarray:
    """Return shot noise times a random factor, gray with probability `gray_prob`."""
    return generate_poisson_noise(img, draw_uniform(scale_range), np.random.uniform() < gray_prob)


def random_add_poisson_noise(
    img: np.ndarray, scale_range: Range = (0, 1.0), gray_prob: float = 0, clip: bool = True, rounds: bool = False
) -> np.ndarray:
    """Return `img` with shot noise times a random factor."""
    return _rounded_and_clipped(img + random_generate_poisson_noise(img, scale_range, gray_prob), clip, rounds)


def generate_gaussian_noise_pt(img: Tensor, sigma: Any = 10, gray_noise: Any = 0) -> Tensor:
    """Return Gaussian noise of the shape of `img`.

    Args:
        img: (B, C, H, W).
        sigma: a number, or a tensor (B,).
        gray_noise: 1 for the same noise in all channels, or a tensor (B,) of 0 and 1.
    """
    noise = torch.randn_like(img)
    if _any(gray_noise):
        gray = torch.randn(img.shape[0], 1, *img.shape[2:], dtype=img.dtype, device=img.device)
        noise = torch.lerp(noise, gray.expand_as(noise), _per_image(gray_noise, img))
    return noise * (_per_image(sigma, img) / 255)


def add_gaussian_noise_pt(
    img: Tensor, sigma: Any = 10, gray_noise: Any = 0, clip: bool = True, rounds: bool = False
) -> Tensor:
    """Return `img` with Gaussian noise; see `generate_gaussian_noise_pt`."""
    return _rounded_and_clipped(img + generate_gaussian_noise_pt(img, sigma, gray_noise), clip, rounds)


def random_generate_gaussian_noise_pt(img: Tensor, sigma_range: Range = (0, 10), gray_prob: float = 0) -> Tensor:
    """Return Gaussian noise of a random `sigma` for each image, each gray with probability `gray_prob`."""
    return generate_gaussian_noise_pt(img, _draw_per_image(img, sigma_range), _draw_per_image(img, (0, 1)) < gray_prob)


def random_add_gaussian_noise_pt(
    img: Tensor, sigma_range: Range = (0, 1.0), gray_prob: float = 0, clip: bool = True, rounds: bool = False
) -> Tensor:
    """Return `img` with Gaussian noise of a random `sigma` for each image."""
    return _rounded_and_clipped(img + random_generate_gaussian_noise_pt(img, sigma_range, gray_prob), clip, rounds)


def generate_poisson_noise_pt(img: Tensor, scale: Any = 1.0, gray_noise: Any = 0) -> Tensor:
    """Return shot noise as by `generate_poisson_noise`; the arguments are those of `generate_gaussian_noise_pt`."""

    def shot(source: Tensor) -> Tensor:
        source = (source * 255).round().clamp(0, 255) / 255
        steps = torch.tensor([_power_of_two(len(one.unique())) for one in source]).to(img).view(-1, 1, 1, 1)
        return torch.poisson(source * steps) / steps - source

    noise = shot(img)
    if _any(gray_noise):
        weights = torch.tensor(GRAY_FROM_RGB).to(img).view(1, 3, 1, 1)
        gray = shot((img * weights).sum(1, keepdim=True))
        noise = torch.lerp(noise, gray.expand_as(noise), _per_image(gray_noise, img))
    return noise * _per_image(scale, img)


def add_poisson_noise_pt(
    img: Tensor, scale: Any = 1.0, clip: bool = True, rounds: bool = False, gray_noise: Any = 0
) -> Tensor:
    """Return `img` with shot noise; see `generate_poisson_noise_pt`."""
    return _rounded_and_clipped(img + generate_poisson_noise_pt(img, scale, gray_noise), clip, rounds)


def random_generate_poisson_noise_pt(img: Tensor, scale_range: Range = (0, 1.0), gray_prob: float = 0) -> Tensor:
    """Return shot noise times a random factor for each image, each gray with probability `gray_prob`."""
    return generate_poisson_noise_pt(img, _draw_per_image(img, scale_range), _draw_per_image(img, (0, 1)) < gray_prob)


def random_add_poisson_noise_pt(
    img: Tensor, scale_range: Range = (0, 1.0), gray_prob: float = 0, clip: bool = True, rounds: bool = False
) -> Tensor:
    """Return `img` with shot noise times a random factor for each image."""
    return _rounded_and_clipped(img + random_generate_poisson_noise_pt(img, scale_range, gray_prob), clip, rounds)


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _rounded_and_clipped(values: Any, clip: bool, rounds: bool) -> Any:
    """Return an array or a tensor after rounding and clipping."""
    values = (values * 255.0).round() / 255.0 if rounds else values
    return values.clip(0, 1) if clip else values


def _per_image(value: Any, img: Tensor) -> Tensor:
    """Return one value for each image, to broadcast over it."""
    return torch.as_tensor(value).to(img).reshape(-1, 1, 1, 1)


def _any(value: Any) -> bool:
    return bool(torch.as_tensor(value).any())


def _draw_per_image(img: Tensor, ends: Range) -> Tensor:
    return torch.rand(img.shape[0], dtype=img.dtype, device=img.device) * (ends[1] - ends[0]) + ends[0]
