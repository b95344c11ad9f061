"""The names that BasicSR 1.4 has in `basicsr.utils`, imported on access: importing the package loads no PyTorch."""

from importlib import import_module
from typing import Any

_HOMES = {
    "color_util": ("bgr2ycbcr", "rgb2ycbcr", "rgb2ycbcr_pt", "ycbcr2bgr", "ycbcr2rgb"),
    "diffjpeg": ("DiffJPEG",),
    "dist_util": ("get_dist_info", "init_dist", "master_only"),
    "file_client": ("FileClient",),
    "img_process_util": ("USMSharp", "filter2D", "usm_sharp"),
    "img_util": ("crop_border", "img2tensor", "imfrombytes", "imwrite", "tensor2img"),
    "logger": ("AvgTimer", "MessageLogger", "get_env_info", "get_root_logger", "init_tb_logger", "init_wandb_logger"),
    "matlab_functions": ("imresize",),
    "misc": (
        "check_resume",
        "get_time_str",
        "make_exp_dirs",
        "mkdir_and_rename",
        "scandir",
        "set_random_seed",
        "sizeof_fmt",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f"basicsr.utils.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'basicsr.utils' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_HOME_OF)
