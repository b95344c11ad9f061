"""The old import path of `basicsr.engine.download`."""

from basicsr.engine.download import *
