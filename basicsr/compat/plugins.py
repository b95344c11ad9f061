"""Lets the registries adapt plug-ins written for BasicSR 1.4 when they are looked up.

Such a plug-in imports a registry from its old path, `basicsr.utils.registry`, which calls `attach`. A project whose
plug-ins all import it from `basicsr.config.registry` is written for this package, and nothing in it is adapted.
"""

from functools import cache

from basicsr import data
from basicsr.compat.datasets import adapt_dataset, takes_opt
from basicsr.compat.loaders import loader_from_section
from basicsr.compat.metrics import adapt_metric
from basicsr.compat.models import adapt_model
from basicsr.config.registry import DATASET_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.single_image_dataset import SingleImageDataset
from basicsr.models.base_model import BaseModel


@cache
def attach() -> None:
    """Let the registries adapt plug-ins: models to the calls of a run, data sets to arguments in place of one dict."""
    MODEL_REGISTRY.adapt_plugin = adapt_model
    DATASET_REGISTRY.adapt_plugin = adapt_dataset
    METRIC_REGISTRY.adapt_plugin = adapt_metric
    data.loader_from_section = loader_from_section
    BaseModel.plain_options_class = staticmethod(adapt_model)
    for cls in (PairedImageDataset, SingleImageDataset):
        takes_opt(cls)
