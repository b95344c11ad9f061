"""The old import path of `basicsr.engine.optimizers`."""

from basicsr.engine.optimizers import *  # noqa: F403
