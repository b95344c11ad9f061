"""What metrics written for BasicSR import: images as (H, W, C), and their luma. Such images are BGR."""

import numpy as np

from basicsr.images.color import bgr2ycbcr


def reorder_image(img: np.ndarray, input_order: str = "HWC") -> np.ndarray:
    """An image (H, W), (C, H, W) or (H, W, C) as (H, W, C).

    Raises:
        ValueError: for another order than "HWC" or "CHW".
    """
    if input_order not in ("HWC", "CHW"):
        raise ValueError(f"Wrong input_order {input_order}. Supported input_orders are 'HWC' and 'CHW'")
    if img.ndim == 2:
        return img[..., None]
    return img.transpose(1, 2, 0) if input_order == "CHW" else img


def to_y_channel(img: np.ndarray) -> np.ndarray:
    """Luma (H, W, 1) in [16, 235], float32, of a BGR image (H, W, 3) in [0, 255]; one channel is its own luma."""
    image = np.asarray(img).astype(np.float32) / 255.0
    if image.ndim == 3 and image.shape[2] == 3:
        image = bgr2ycbcr(image, y_only=True)[..., None]
    return image * 255.0
