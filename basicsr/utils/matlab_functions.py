"""The old import path of `basicsr.images.matlab_resize`, and in BasicSR of colours."""

from basicsr.images.matlab_resize import *
from basicsr.utils.color_util import bgr2ycbcr, rgb2ycbcr, ycbcr2bgr, ycbcr2rgb
