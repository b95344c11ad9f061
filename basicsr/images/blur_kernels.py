"""Blur kernels, given or drawn at random from the global generators of Python and NumPy, as BasicSR 1.4 has them."""

import math
import random
from collections.abc import Sequence

import numpy as np
import torch

Range = Sequence[float]


def sigma_matrix2(sig_x: float, sig_y: float, theta: float) -> np.ndarray:
    """Return the covariance (2, 2) of a Gaussian of deviations `sig_x`, `sig_y` (px) rotated by `theta` (radians)."""
    rotation = np.array([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
    return rotation @ np.diag([sig_x**2, sig_y**2]) @ rotation.T


def mesh_grid(kernel_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the positions of a kernel's entries from its centre, in pixels: (K, K, 2), x first; and x and y alone."""
    axis = np.arange(kernel_size) - (kernel_size - 1) / 2
    xx, yy = np.meshgrid(axis, axis)
    return np.stack([xx, yy], axis=2), xx, yy


def pdf2(sigma_matrix: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return exp(-d/2) at every position, d the squared Mahalanobis distance of `sigma_matrix`; not normalised."""
    return np.exp(-0.5 * _squared_distance(sigma_matrix, grid))


def bivariate_Gaussian(  # noqa: N802 - the name that is imported
    kernel_size: int,
    sig_x: float,
    sig_y: float,
    theta: float,
    grid: np.ndarray | None = None,
    isotropic: bool = True,
) -> np.ndarray:
    """Return a Gaussian kernel (K, K) whose sum is 1.

    Args:
        kernel_size: K.
        sig_x: standard deviation in pixels.
        sig_y: along the other axis; not read for an isotropic kernel.
        theta: rotation in radians; not read for an isotropic kernel.
        grid: from `mesh_grid`; None: that of K.
        isotropic: round, with `sig_x` alone.
    """
    return _normalised(np.exp(-0.5 * _distances(kernel_size, sig_x, sig_y, theta, grid, isotropic)))


def bivariate_generalized_Gaussian(  # noqa: N802 - the name that is imported
    kernel_size: int,
    sig_x: float,
    sig_y: float,
    theta: float,
    beta: float,
    grid: np.ndarray | None = None,
    isotropic: bool = True,
) -> np.ndarray:
    """Return a kernel like `bivariate_Gaussian` of shape exp(-d^beta / 2): flat for a large `beta`, peaked below 1.

    Source: Pascal et al., "Parameter estimation for multivariate generalized Gaussian distributions", 2013.
    """
    return _normalised(np.exp(-0.5 * _distances(kernel_size, sig_x, sig_y, theta, grid, isotropic) ** beta))


def bivariate_plateau(
    kernel_size: int,
    sig_x: float,
    sig_y: float,
    theta: float,
    beta: float,
    grid: np.ndarray | None = None,
    isotropic: bool = True,
) -> np.ndarray:
    """Return a kernel like `bivariate_Gaussian` of shape 1 / (1 + d^beta)."""
    return _normalised(1 / (1 + _distances(kernel_size, sig_x, sig_y, theta, grid, isotropic) ** beta))


def random_bivariate_Gaussian(  # noqa: N802 - the name that is imported
    kernel_size: int,
    sigma_x_range: Range,
    sigma_y_range: Range,
    rotation_range: Range,
    noise_range: Range | None = None,
    isotropic: bool = True,
) -> np.ndarray:
    """Return a Gaussian kernel (K, K) of random deviations and rotation.

    Args:
        kernel_size: K, odd.
        sigma_x_range: in pixels.
        sigma_y_range: in pixels.
        rotation_range: in radians.
        noise_range: factors, drawn for each entry; None: 1.
        isotropic: round: only `sigma_x_range` is read.

    Raises:
        ValueError: for an even size or a range whose first end is the larger.
    """
    shape = _draw_shape(kernel_size, sigma_x_range, sigma_y_range, rotation_range, isotropic)
    return _with_noise(bivariate_Gaussian(kernel_size, *shape, isotropic=isotropic), noise_range)


def random_bivariate_generalized_Gaussian(  # noqa: N802 - the name that is imported
    kernel_size: int,
    sigma_x_range: Range,
    sigma_y_range: Range,
    rotation_range: Range,
    beta_range: Range,
    noise_range: Range | None = None,
    isotropic: bool = True,
) -> np.ndarray:
    """Return a random generalised Gaussian; `beta` is below 1 half of the time, above 1 the other half."""
    shape = _draw_shape(kernel_size, sigma_x_range, sigma_y_range, rotation_range, isotropic)
    kernel = bivariate_generalized_Gaussian(kernel_size, *shape, _draw_beta(beta_range), isotropic=isotropic)
    return _with_noise(kernel, noise_range)


def random_bivariate_plateau(
    kernel_size: int,
    sigma_x_range: Range,
    sigma_y_range: Range,
    rotation_range: Range,
    beta_range: Range,
    noise_range: Range | None = None,
    isotropic: bool = True,
) -> np.ndarray:
    """Return a random plateau, drawn like `random_bivariate_generalized_Gaussian`."""
    shape = _draw_shape(kernel_size, sigma_x_range, sigma_y_range, rotation_range, isotropic)
    return _with_noise(bivariate_plateau(kernel_size, *shape, _draw_beta(beta_range), isotropic=isotropic), noise_range)


def random_mixed_kernels(
    kernel_list: Sequence[str],
    kernel_prob: Sequence[float],
    kernel_size: int = 21,
    sigma_x_range: Range = (0.6, 5),
    sigma_y_range: Range = (0.6, 5),
    rotation_range: Range = (-math.pi, math.pi),
    betag_range: Range = (0.5, 8),
    betap_range: Range = (0.5, 8),
    noise_range: Range | None = None,
) -> np.ndarray:
    """Return a random kernel (K, K) of a random kind.

    Args:
        kernel_list: of "iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso".
        kernel_prob: weight of each.
        kernel_size: K, odd.
        sigma_x_range: in pixels.
        sigma_y_range: in pixels; round kinds do not read it.
        rotation_range: in radians.
        betag_range: shape of the generalised kinds.
        betap_range: shape of the plateaus.
        noise_range: factors, drawn for each entry; none for plateaus, as in BasicSR.

    Raises:
        ValueError: for another kind.
    """
    kind = random.choices(kernel_list, kernel_prob)[0]
    isotropic = kind in ("iso", "generalized_iso", "plateau_iso")
    ranges = (kernel_size, sigma_x_range, sigma_y_range, rotation_range)
    if kind in ("iso", "aniso"):
        return random_bivariate_Gaussian(*ranges, noise_range=noise_range, isotropic=isotropic)
    if kind in ("generalized_iso", "generalized_aniso"):
        return random_bivariate_generalized_Gaussian(*ranges, betag_range, noise_range=noise_range, isotropic=isotropic)
    if kind in ("plateau_iso", "plateau_aniso"):
        return random_bivariate_plateau(*ranges, betap_range, noise_range=None, isotropic=isotropic)
    raise ValueError(f"kernel_list: unknown kernel {kind!r}; use iso, aniso, generalized_*iso or plateau_*iso")


def circular_lowpass_kernel(cutoff: float, kernel_size: int, pad_to: int = 0) -> np.ndarray:
    """Return a 2D sinc kernel (K, K), which makes ringing artefacts; its sum is 1.

    Args:
        cutoff: frequency in radians per pixel, up to pi.
        kernel_size: K, odd.
        pad_to: side after padding with zeros; 0: no padding.

    Source: Wang et al., Real-ESRGAN, 2021, eq. 6.

    Raises:
        ValueError: for an even size.
    """
    _check_odd(kernel_size)
    _, xx, yy = mesh_grid(kernel_size)
    radius = np.hypot(xx, yy)
    radius[kernel_size // 2, kernel_size // 2] = 1  # its limit is set below
    kernel = cutoff * torch.special.bessel_j1(torch.from_numpy(cutoff * radius)).numpy() / (2 * math.pi * radius)
    kernel[kernel_size // 2, kernel_size // 2] = cutoff**2 / (4 * math.pi)
    margin = max(pad_to - kernel_size, 0) // 2
    return np.pad(_normalised(kernel), margin)


def _squared_distance(sigma_matrix: np.ndarray, grid: np.ndarray) -> np.ndarray:
    return np.einsum("hwi,ij,hwj->hw", grid, np.linalg.inv(sigma_matrix), grid)


def _distances(
    kernel_size: int, sig_x: float, sig_y: float, theta: float, grid: np.ndarray | None, isotropic: bool
) -> np.ndarray:
    """Return squared distances from the centre, (K, K), in standard deviations."""
    sigma = np.eye(2) * sig_x**2 if isotropic else sigma_matrix2(sig_x, sig_y, theta)
    return _squared_distance(sigma, mesh_grid(kernel_size)[0] if grid is None else grid)


def _normalised(kernel: np.ndarray) -> np.ndarray:
    return kernel / kernel.sum()


def _check_odd(kernel_size: int) -> None:
    if kernel_size % 2 == 0:
        raise ValueError(f"Kernel size must be an odd number, got {kernel_size}.")


def _draw_shape(
    kernel_size: int, sigma_x_range: Range, sigma_y_range: Range, rotation_range: Range, isotropic: bool
) -> tuple[float, float, float]:
    """Draw the deviations along both axes, and the rotation."""
    _check_odd(kernel_size)
    _check_range("sigma_x_range", sigma_x_range)
    sig_x = draw_uniform(sigma_x_range)
    if isotropic:
        return sig_x, sig_x, 0.0
    _check_range("sigma_y_range", sigma_y_range)
    _check_range("rotation_range", rotation_range)
    return sig_x, draw_uniform(sigma_y_range), draw_uniform(rotation_range)


def draw_uniform(ends: Range) -> float:
    """Draw a number between both ends from NumPy's global generator."""
    return np.random.uniform(ends[0], ends[1])


def _check_range(name: str, ends: Range) -> None:
    if ends[0] > ends[1]:
        raise ValueError(f"Wrong {name}: {ends[0]} is above {ends[1]}.")


def _draw_beta(beta_range: Range) -> float:
    low, high = beta_range
    return np.random.uniform(low, 1) if np.random.uniform() < 0.5 else np.random.uniform(1, high)


def _with_noise(kernel: np.ndarray, noise_range: Range | None) -> np.ndarray:
    if noise_range is None:
        return kernel
    _check_range("noise_range", noise_range)
    return _normalised(kernel * np.random.uniform(noise_range[0], noise_range[1], size=kernel.shape))
