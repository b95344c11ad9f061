"""The old import path of `basicsr.compat.options`."""

from basicsr.compat.options import *
