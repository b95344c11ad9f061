"""The old import path of `basicsr.compat.video`."""

from basicsr.compat.video import *
