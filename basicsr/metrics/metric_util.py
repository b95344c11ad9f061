"""The old import path of `basicsr.compat.metric_util`."""

from basicsr.compat.metric_util import *  # noqa: F403
