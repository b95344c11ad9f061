"""Tools without a domain of their own. The names BasicSR keeps here are found when asked for."""

from importlib import import_module
from typing import Any

_HOME_OF = {
    "get_root_logger": "logger",
    "MessageLogger": "logger",
    "crop_border": "img_util",
    "imresize": "matlab_functions",
    "get_dist_info": "dist_util",
    "init_dist": "dist_util",
    "master_only": "dist_util",
}


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f"basicsr.utils.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'basicsr.utils' has no attribute {name!r}")
