"""The old import path of `basicsr.engine.distributed`."""

from basicsr.engine.distributed import *
