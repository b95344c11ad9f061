"""The old import path of `RealESRGANPairedDataset`."""

from basicsr.data.realesrgan_dataset import RealESRGANPairedDataset  # noqa: F401 - imported from here by old projects
