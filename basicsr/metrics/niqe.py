"""The old import path of `basicsr.compat.niqe`."""

from basicsr.compat.niqe import *  # noqa: F403
