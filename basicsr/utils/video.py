"""The old import path of `basicsr.images.video`."""

from basicsr.images.video import *
