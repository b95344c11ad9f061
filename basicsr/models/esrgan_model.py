"""The old import path of `ESRGANModel`."""

from basicsr.models.srgan_model import ESRGANModel  # noqa: F401 - imported from here by projects for BasicSR 1.4
