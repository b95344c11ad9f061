"""The old import path of `basicsr.images.files` and of BasicSR's own functions on BGR images."""

from basicsr.compat.images import *
from basicsr.images.channel_order import *
from basicsr.images.files import *
