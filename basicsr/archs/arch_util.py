"""The old import path of `basicsr.compat.arch_util`."""

from basicsr.compat.arch_util import *  # noqa: F403
