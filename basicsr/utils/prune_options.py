"""The old import path of `basicsr.config.pruning`."""

from basicsr.config.pruning import *
