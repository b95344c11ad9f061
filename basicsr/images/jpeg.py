"""What JPEG leaves of an image."""

import cv2
import numpy as np

FACTORS = {"4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444}


def jpeg_copy(image: np.ndarray, quality: int, chroma: str = "4:2:0") -> np.ndarray:
    """Return `image` encoded as JPEG and decoded, in its shape.

    Args:
        image: uint8 (H, W, 3), RGB, or (H, W, 1), gray.
        quality: from 1 (worst) to 100.
        chroma: colour in half the resolution of luma, "4:2:0", or in the same, "4:4:4"; gray images have none.
    """
    parameters = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, FACTORS[chroma]]
    _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), parameters)
    if image.shape[2] == 1:
        return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE))[..., None]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))[..., ::-1]
