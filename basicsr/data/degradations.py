"""The old import path of `basicsr.compat.blur_kernels`, `noise` and `jpeg`."""

from basicsr.compat.blur_kernels import *  # noqa: F403
from basicsr.compat.jpeg import *  # noqa: F403
from basicsr.compat.noise import *  # noqa: F403
