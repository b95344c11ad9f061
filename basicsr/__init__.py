"""basicsr: train, test and deploy light-weight image super-resolution networks.

Names that users of BasicSR import from here are imported on access, so that importing the package loads nothing heavy.
"""

from importlib import import_module
from typing import Any

from basicsr.version import __version__

_HOMES = {
    "archs": ("build_network",),
    "data": ("build_dataset", "build_dataloader"),
    "losses": ("build_loss",),
    "metrics": ("calculate_metric",),
    "metrics.psnr_ssim": ("calculate_psnr", "calculate_ssim", "calculate_psnr_pt", "calculate_ssim_pt"),
    "models": ("build_model",),
    "inference.upscaler": ("Upscaler",),
    "compat.file_client": ("FileClient",),
    "compat.images": ("crop_border", "img2tensor", "imwrite", "tensor2img"),
    "compat.misc": ("scandir", "set_random_seed"),
    "engine.distributed": ("get_dist_info", "init_dist", "master_only"),
    "images.matlab_resize": ("imresize",),
    "utils.logger": ("MessageLogger", "get_root_logger"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f"basicsr.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'basicsr' has no attribute {name!r}")


def attach_compat() -> None:
    """Let what is written for BasicSR 1.4 work: its plug-ins, its loaders' arguments, its plain options."""
    import_module("basicsr.compat.plugins").attach()


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
