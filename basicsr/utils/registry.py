"""The old import path of `basicsr.config.registry`; what registers through it follows BasicSR 1.4."""

from basicsr.compat.plugins import attach
from basicsr.config.registry import *

attach()
