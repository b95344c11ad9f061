"""The old import path of `basicsr.compat.jpeg`."""

from basicsr.compat.jpeg import *
