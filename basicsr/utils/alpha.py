"""The old import path of `basicsr.images.alpha`."""

from basicsr.images.alpha import *
