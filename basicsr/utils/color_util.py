"""The old import path of `basicsr.images.color` and of BasicSR's own functions on BGR."""

from basicsr.compat.images import bgr2ycbcr, ycbcr2bgr
from basicsr.images.color import *
