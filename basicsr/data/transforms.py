"""The old import path of `basicsr.data.crops` and of BasicSR's own crops and flips."""

from basicsr.compat.transforms import *  # noqa: F403
from basicsr.data.crops import *  # noqa: F403
from basicsr.data.network_input import *  # noqa: F403
