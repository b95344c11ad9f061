"""The old import path of `basicsr.compat.img_process_util`."""

from basicsr.compat.img_process_util import *
