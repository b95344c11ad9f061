"""The old import path of `basicsr.inference.memory`."""

from basicsr.inference.memory import *
