"""The old import path of `basicsr.images.png_stream`."""

from basicsr.images.png_stream import *
