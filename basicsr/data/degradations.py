"""The old import path of `basicsr.images.blur_kernels`, `noise` and `diff_jpeg`."""

from basicsr.images.blur_kernels import *  # noqa: F403
from basicsr.images.diff_jpeg import *  # noqa: F403
from basicsr.images.noise import *  # noqa: F403
