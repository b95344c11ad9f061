"""The old import path of `RealESRNetModel`."""

from basicsr.models.realesrgan_model import RealESRNetModel  # noqa: F401 - imported from here by projects for BasicSR 1.4
