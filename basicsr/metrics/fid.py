"""FID, the Fréchet Inception Distance between two sets of images.

Source: Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", NeurIPS
2017.

    net = load_patched_inception_v3("cpu", weights="pt_inception-2015-12-05-6726825d.pth")
    ours, theirs = (statistics(extract_inception_features(batches, net, None, "cpu")) for batches in (a, b))
    calculate_fid(*ours, *theirs)
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from basicsr.metrics.inception import FIDInception


def load_patched_inception_v3(
    device: str | torch.device = "cuda",
    resize_input: bool = True,
    normalize_input: bool = False,
    weights: str | Path | None = None,
) -> FIDInception:
    """Return the network for `extract_inception_features`.

    Args:
        device: to put it on.
        resize_input: bring the images to 299 x 299 px.
        normalize_input: images are in [0, 1]; False: in [-1, 1].
        weights: see `FIDInception`.

    Raises:
        CheckpointError: see `FIDInception`.
    """
    return FIDInception(weights, resize_input, normalize_input).to(device)


@torch.no_grad()
def extract_inception_features(
    data_generator: Iterable[Tensor],
    inception: nn.Module,
    len_generator: int | None = None,
    device: str | torch.device = "cuda",
) -> Tensor:
    """Return the features (images, 2048), on the CPU, of batches of images.

    Args:
        data_generator: batches (B, 3, H, W), RGB.
        inception: from `load_patched_inception_v3`.
        len_generator: not used; BasicSR shows it in a progress bar.
        device: to compute on.
    """
    found = [inception(batch.to(device)).reshape(len(batch), -1).cpu() for batch in data_generator]
    return torch.cat(found)


def statistics(features: Tensor | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (C,) and covariance (C, C) of features (images, C), in float64; at least two images."""
    values = np.asarray(features, np.float64)
    return values.mean(0), np.cov(values, rowvar=False)


def calculate_fid(mu1: np.ndarray, sigma1: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray, eps: float = 1e-6) -> float:
    """Return the Fréchet distance between two Gaussians: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), >= 0.

    Args:
        mu1: mean of the features of the first set, (C,).
        sigma1: their covariance, (C, C).
        mu2: as `mu1`, of the second set.
        sigma2: as `sigma1`, of the second set.
        eps: not used; BasicSR adds it to the diagonals where its matrix root fails. No root of S1 S2 is needed here:
            its trace is that of the root of the symmetric S1^(1/2) S2 S1^(1/2).

    Raises:
        ValueError: when the shapes differ.
    """
    mu1, mu2, sigma1, sigma2 = (np.atleast_1d(np.asarray(x, np.float64)) for x in (mu1, mu2, sigma1, sigma2))
    if mu1.shape != mu2.shape or np.atleast_2d(sigma1).shape != np.atleast_2d(sigma2).shape:
        raise ValueError(f"the features differ in number: {mu1.shape} and {mu2.shape}")
    root = _root(np.atleast_2d(sigma1))
    values = np.linalg.eigvalsh(root @ np.atleast_2d(sigma2) @ root)
    cross = np.sqrt(values.clip(min=0)).sum()
    distance = np.sum((mu1 - mu2) ** 2) + np.trace(np.atleast_2d(sigma1)) + np.trace(np.atleast_2d(sigma2)) - 2 * cross
    return float(max(distance, 0.0))


def _root(matrix: np.ndarray) -> np.ndarray:
    """Return the symmetric root of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
