"""The old import path of `basicsr.compat.metrics`."""

from basicsr.compat.metrics import *  # noqa: F403
