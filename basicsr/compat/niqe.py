"""NIQE, by name only: its model of natural images may not be passed on."""

from typing import Any

from basicsr.config.registry import UNSUPPORTED_NAMES


def calculate_niqe(*_: Any, **__: Any) -> float:
    """The Natural Image Quality Evaluator of BasicSR, which is not here.

    Raises:
        NotImplementedError: always, with the reason.
    """
    raise NotImplementedError(UNSUPPORTED_NAMES["calculate_niqe"])
