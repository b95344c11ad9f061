"""The old import path of `basicsr.engine.logging`."""

from basicsr.engine.logging import *
