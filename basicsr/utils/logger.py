"""The old import path of `basicsr.compat.logging`."""

from basicsr.compat.logging import *
