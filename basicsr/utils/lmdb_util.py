"""The old import path of `basicsr.compat.lmdb_util`."""

from basicsr.compat.lmdb_util import *
