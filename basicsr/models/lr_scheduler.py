"""The old import path of `basicsr.engine.lr_scheduler`."""

from basicsr.engine.lr_scheduler import *  # noqa: F403
