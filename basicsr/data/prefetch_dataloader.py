"""The old import path of `basicsr.compat.prefetch`."""

from basicsr.compat.prefetch import *  # noqa: F403
