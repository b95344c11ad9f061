"""The old import path of `basicsr.engine.signals`."""

from basicsr.engine.signals import *
