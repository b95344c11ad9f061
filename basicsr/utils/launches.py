"""The old import path of `basicsr.engine.launches`."""

from basicsr.engine.launches import *
