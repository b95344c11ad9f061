"""The old import path of `basicsr.engine.resume_check`."""

from basicsr.engine.resume_check import *
