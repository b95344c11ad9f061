"""The old import path of `basicsr.engine.run`."""

from basicsr.engine.run import *
