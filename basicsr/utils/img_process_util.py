"""The old import path of `basicsr.images.filters`."""

from basicsr.images.filters import *
