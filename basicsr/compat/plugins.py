"""Adapters for the classes and functions that plug-ins written for BasicSR 1.4 register.

Such a plug-in imports a registry from its old path, `basicsr.utils.registry`, which calls `attach`. Without that import
plug-ins follow the contract of this package, and nothing is adapted.
"""

from functools import cache

from basicsr.compat.datasets import adapt_dataset, takes_opt
from basicsr.compat.metrics import adapt_metric
from basicsr.config.registry import DATASET_REGISTRY, METRIC_REGISTRY
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.single_image_dataset import SingleImageDataset


@cache
def attach() -> None:
    """Let the registries adapt plug-ins, and our data sets be built as those of BasicSR are."""
    DATASET_REGISTRY.adapt_plugin = adapt_dataset
    METRIC_REGISTRY.adapt_plugin = adapt_metric
    for cls in (PairedImageDataset, SingleImageDataset):
        takes_opt(cls)
