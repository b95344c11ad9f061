"""The old import path of `basicsr.images.tiling`."""

from basicsr.images.tiling import *
