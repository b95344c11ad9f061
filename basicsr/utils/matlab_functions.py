"""The old import path of `basicsr.images.matlab_resize`."""

from basicsr.images.matlab_resize import *
