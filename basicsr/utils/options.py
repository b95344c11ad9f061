"""The old import path of `basicsr.config.schema` and of BasicSR's own functions on options."""

from basicsr.compat.options import *
from basicsr.config.schema import *
from basicsr.config.schema import copy_options_file as copy_opt_file
