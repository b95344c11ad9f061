"""The old import path of `basicsr.engine.curves` and `basicsr.compat.plot_util`."""

from basicsr.compat.plot_util import *
from basicsr.engine.curves import *
