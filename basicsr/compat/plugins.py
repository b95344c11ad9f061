"""Attaches what plug-ins written for BasicSR 1.4 expect of the classes and functions that they register.

Such a plug-in imports a registry from `basicsr.utils.registry`, its old place, which calls `attach`. A plug-in that
imports it from `basicsr.config.registry` is written for the contract of this package and is left as it is.
"""

from functools import cache

from basicsr.compat.datasets import adapt_dataset, takes_opt
from basicsr.compat.metrics import adapt_metric
from basicsr.compat.models import adapt_model
from basicsr.config.registry import DATASET_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.single_image_dataset import SingleImageDataset


@cache
def attach() -> None:
    """Let the registries adapt plug-ins, and our data sets be built as those of BasicSR are."""
    MODEL_REGISTRY.adapt_plugin = adapt_model
    DATASET_REGISTRY.adapt_plugin = adapt_dataset
    METRIC_REGISTRY.adapt_plugin = adapt_metric
    for cls in (PairedImageDataset, SingleImageDataset):
        takes_opt(cls)
