"""The old import path of `basicsr.metrics.calculate_niqe`."""

from basicsr.metrics import calculate_niqe  # noqa: F401
