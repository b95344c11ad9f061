"""The old import path of `basicsr.engine.cuda_graphs`."""

from basicsr.engine.cuda_graphs import *
