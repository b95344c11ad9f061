"""Lets the registries adapt plug-ins written for BasicSR 1.4 when they give them out.

Such a plug-in imports a registry from `basicsr.utils.registry`, its old place, which calls `attach`. A project whose
plug-ins all import it from `basicsr.config.registry` is written for this package, and nothing in it is adapted.
"""

from basicsr.compat.models import adapt_model
from basicsr.config.registry import MODEL_REGISTRY


def attach() -> None:
    """Let the registries adapt plug-ins: models to the calls of a run, data sets to today's arguments."""
    MODEL_REGISTRY.adapt_plugin = adapt_model
