"""The old import path of `basicsr.images.files`."""

from basicsr.images.files import *
