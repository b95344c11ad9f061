"""The old import path of `basicsr.images.color`."""

from basicsr.images.color import *
