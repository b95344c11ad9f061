"""The old import path of `basicsr.engine.parallel`."""

from basicsr.engine.parallel import *
