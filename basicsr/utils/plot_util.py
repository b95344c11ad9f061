"""The old import path of `basicsr.engine.curves`."""

from basicsr.engine.curves import *
