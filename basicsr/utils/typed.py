"""The old import path of `basicsr.config.section`."""

from basicsr.config.section import *
