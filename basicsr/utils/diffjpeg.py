"""The old import path of `basicsr.images.diff_jpeg`."""

from basicsr.images.diff_jpeg import *
