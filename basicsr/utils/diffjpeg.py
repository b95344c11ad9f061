"""The old import path of `basicsr.compat.diffjpeg`."""

from basicsr.compat.diffjpeg import *
