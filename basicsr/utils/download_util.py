"""The old import path of `basicsr.compat.download_util`."""

from basicsr.compat.download_util import *
