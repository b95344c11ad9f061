"""Checks that the objects described in an option file can be made with their arguments."""

import functools
import logging

import torch

from basicsr.config.construction import TooLargeError, build_for_shapes
from basicsr.config.registry import ARCH_REGISTRY, OPTIMIZER_REGISTRY
from basicsr.config.section import Spec

logger = logging.getLogger("basicsr")


def check_network(spec: Spec) -> None:
    """Build a network for its shapes only (see `construction.py`).

    Raises:
        OptionError: when the constructor rejects its arguments.
    """
    try:
        build_for_shapes(functools.partial(ARCH_REGISTRY.build, spec))
    except TooLargeError as error:
        logger.info("%s: could not be built for a check (%s)", spec.where, error)
    except (RuntimeError, OverflowError, MemoryError) as error:
        raise spec.where.error(f"cannot be built with these sizes ({error or 'too large'})") from error


def check_optimizer(spec: Spec) -> None:
    """Build an optimizer of one small parameter.

    Raises:
        OptionError: when the constructor rejects its arguments.
    """
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    takes_names = getattr(OPTIMIZER_REGISTRY.get(spec.type), "takes_names", False)
    try:
        OPTIMIZER_REGISTRY.build(spec, [("weight", parameter) if takes_names else parameter])
    except RuntimeError as error:  # e.g. `foreach` together with `fused`
        raise spec.where.error(str(error)) from error
