"""The old import path of `basicsr.compat.misc`."""

from basicsr.compat.misc import *
