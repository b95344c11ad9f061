"""The old import path of `basicsr.inference.comparison`."""

from basicsr.inference.comparison import *
