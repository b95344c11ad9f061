"""The old import path of `basicsr.config.section` and `basicsr.config.convert`."""

from basicsr.config.convert import *
from basicsr.config.describe import *
from basicsr.config.section import *
