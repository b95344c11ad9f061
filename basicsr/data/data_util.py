"""The old import path of `basicsr.data.listing` and of BasicSR's own functions on lists of files."""

from basicsr.compat.data_util import *  # noqa: F403
from basicsr.compat.datasets import *  # noqa: F403
from basicsr.data.data_sampler import *  # noqa: F403
from basicsr.data.listing import *  # noqa: F403
