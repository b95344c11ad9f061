"""The old import path of `basicsr.engine.checkpoint`."""

from basicsr.engine.checkpoint import *
