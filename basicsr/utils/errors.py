"""The old import path of `basicsr.errors`."""

from basicsr.errors import *
