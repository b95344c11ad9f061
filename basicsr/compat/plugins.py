"""Attaches what plug-ins written for BasicSR 1.4 expect of the classes and functions that they register.

Such a plug-in imports a registry from `basicsr.utils.registry`, its old place, which calls `attach`. A plug-in that
imports it from `basicsr.config.registry` is written for the contract of this package and is left as it is.
"""

from basicsr.compat.models import adapt_model
from basicsr.config.registry import MODEL_REGISTRY


def attach() -> None:
    """Let the registries adapt plug-ins: models to today's hooks, data sets to today's arguments."""
    MODEL_REGISTRY.adapt_plugin = adapt_model
