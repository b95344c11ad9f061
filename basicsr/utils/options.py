"""The old import path of `basicsr.config.load`, `basicsr.config.schema` and BasicSR's own functions on options."""

import basicsr.compat.models  # adapts the models that are built with the plain options of parse_options
from basicsr.compat.options import *
from basicsr.config.load import *
from basicsr.config.load import copy_options_file as copy_opt_file
from basicsr.config.schema import *
