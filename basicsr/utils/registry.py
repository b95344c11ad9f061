"""The old import path of `basicsr.config.registry`."""

from basicsr.config.registry import *
