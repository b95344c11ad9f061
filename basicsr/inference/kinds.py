"""The kinds of images that `Upscaler` takes, as arrays and back: tensors and PIL images."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from basicsr.inference import color
from basicsr.inference.image_io import match_channels, pixels_of_pil


def arrays_of_tensor(image: Tensor) -> list[np.ndarray]:
    """Return the images of a tensor as arrays (H, W, C).

    Args:
        image: (C, H, W) or (B, C, H, W), uint8, or floats in [0, 1]; on any device.

    Raises:
        ValueError: for another shape or type.
    """
    if image.ndim not in (3, 4) or not (image.dtype == torch.uint8 or image.is_floating_point()):
        got = f"{tuple(image.shape)} of {image.dtype}"
        raise ValueError(f"expected a tensor (C, H, W) or (B, C, H, W), uint8 or floats in [0, 1], got {got}")
    batch = image.detach() if image.ndim == 4 else image.detach()[None]
    values = batch if batch.dtype == torch.uint8 else batch.float()
    return list(values.permute(0, 2, 3, 1).cpu().numpy())


def tensor_of_arrays(outputs: list[np.ndarray], like: Tensor) -> Tensor:
    """Return outputs (H, W, C) or (H, W) as a tensor with the axes, type and device of another one."""
    stacked = np.stack([output if output.ndim == 3 else output[..., None] for output in outputs])
    tensor = torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous().to(like.device, like.dtype)
    return tensor if like.ndim == 4 else tensor[0]


def array_of_pil(image: Image.Image, channels: int) -> tuple[np.ndarray, bytes | None]:
    """Return the pixels of a PIL image, and the colour profile of the output.

    A profile that the output cannot carry (CMYK; gray, where the network is of RGB, and the other way round) is used to
    convert the colours to sRGB; a damaged one is ignored.

    Args:
        image: of any mode with a range.
        channels: of the network.

    Raises:
        ValueError: for modes without a range.
    """
    profile = image.info.get("icc_profile") or None
    space = color.profile_space(profile) if profile else None
    if profile is None or space not in (color.RGB, color.GRAY, color.CMYK):
        return pixels_of_pil(image), None
    if space == (color.RGB if channels == 3 else color.GRAY) and image.mode != "CMYK":
        return pixels_of_pil(image), profile
    try:
        if image.mode == "CMYK":
            pixels = pixels_of_pil(color.image_to_srgb(image, profile))
        else:
            pixels = match_channels(pixels_of_pil(image), 3)
            colours = color.pixels_to_srgb(pixels[..., :3], profile, "picture")
            pixels = np.dstack([colours, pixels[..., 3:]])
    except ValueError:
        return pixels_of_pil(image), None
    return pixels, color.srgb_profile() if channels == 3 else None


def pil_of_array(output: np.ndarray, profile: bytes | None) -> Image.Image:
    """Return an output of 8 bits as a PIL image, which holds the colour profile for those who save it."""
    image = Image.fromarray(output)
    if profile is not None:
        image.info["icc_profile"] = profile
    return image
