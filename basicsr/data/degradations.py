"""The old import path of `basicsr.compat.degradations`."""

from basicsr.compat.degradations import *  # noqa: F403
