"""The old import path of `basicsr.compat.file_client`."""

from basicsr.compat.file_client import *
