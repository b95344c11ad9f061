"""RGB and YCbCr of standard-definition television, as in MATLAB's `rgb2ycbcr` and in the field's PSNR.

Source: ITU-R BT.601. Y runs from 16 to 235 and Cb, Cr from 16 to 240, in units of 1/255.
"""

import numpy as np
import torch
from torch import Tensor

Y_FROM_RGB = (65.481, 128.553, 24.966)
YCBCR_FROM_RGB = np.array([Y_FROM_RGB, (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214)])
OFFSET = np.array([16.0, 128.0, 128.0])


def rgb2ycbcr(img: np.ndarray, y_only: bool = False) -> np.ndarray:
    """Return YCbCr (H, W, 3), or Y alone (H, W), of an RGB image (H, W, 3), in the type and range of the input.

    Args:
        img: uint8 in [0, 255] (the result is rounded), or floats in [0, 1] (not rounded).
        y_only: leave out Cb and Cr.
    """
    rows = slice(0, 1 if y_only else 3)
    ycbcr = _unit_floats(img) @ YCBCR_FROM_RGB[rows].T + OFFSET[rows]
    return _as_input(ycbcr[..., 0] if y_only else ycbcr, img.dtype)


def ycbcr2rgb(img: np.ndarray) -> np.ndarray:
    """Return RGB (H, W, 3) of a YCbCr image (H, W, 3), in the type and range of the input: inverse of `rgb2ycbcr`."""
    rgb = (_unit_floats(img) * 255 - OFFSET) @ np.linalg.inv(YCBCR_FROM_RGB).T * 255
    return _as_input(rgb, img.dtype)


def rgb_to_y(img: np.ndarray) -> np.ndarray:
    """Return the luma (H, W, 1) in [16, 235] / 255 of an RGB image (H, W, 3) of floats in [0, 1]."""
    return rgb2ycbcr(img, y_only=True)[..., None]


def rgb2ycbcr_pt(img: Tensor, y_only: bool = False) -> Tensor:
    """Return YCbCr (N, 3, H, W), or Y alone (N, 1, H, W), divided by 255, of RGB (N, 3, H, W) in [0, 1]."""
    rows = slice(0, 1 if y_only else 3)
    matrix, offset = (torch.from_numpy(part[rows]).to(img) for part in (YCBCR_FROM_RGB, OFFSET))
    return (torch.einsum("oc,nchw->nohw", matrix, img) + offset.view(1, -1, 1, 1)) / 255


def ycbcr2rgb_pt(img: Tensor) -> Tensor:
    """Return RGB (N, 3, H, W) in [0, 1] of YCbCr (N, 3, H, W) divided by 255: inverse of `rgb2ycbcr_pt`."""
    matrix, offset = torch.from_numpy(np.linalg.inv(YCBCR_FROM_RGB)).to(img), torch.from_numpy(OFFSET).to(img)
    return torch.einsum("oc,nchw->nohw", matrix, img * 255 - offset.view(1, -1, 1, 1))


def rgb_to_y_pt(img: Tensor) -> Tensor:
    """Return the luma (N, 1, H, W) in [16, 235] / 255 of RGB (N, 3, H, W) in [0, 1]."""
    return rgb2ycbcr_pt(img, y_only=True)


def _unit_floats(img: np.ndarray) -> np.ndarray:
    return img / 255.0 if img.dtype == np.uint8 else img.astype(np.float64)


def _as_input(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return values in [0, 255] as `dtype`: uint8 in [0, 255], floats in [0, 1]."""
    return values.round().clip(0, 255).astype(np.uint8) if dtype == np.uint8 else (values / 255).astype(dtype)
