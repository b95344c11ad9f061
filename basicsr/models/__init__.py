"""Models: networks with their losses, optimizers and checkpoints. A model sees batches and options, never data sets."""

import logging
from typing import TYPE_CHECKING, Any

from basicsr.config.registry import MODEL_REGISTRY

if TYPE_CHECKING:
    from basicsr.config.schema import Options
    from basicsr.models.base_model import BaseModel

logger = logging.getLogger("basicsr")


def build_model(opt: "Options") -> "BaseModel":
    """Return the model that `model_type` names, built with the options of the run."""
    model_class: Any = MODEL_REGISTRY.get(opt.model_type)
    if adapt := getattr(opt, "adapt_model", None):  # options from `parse_options`: a script for BasicSR 1.4
        model_class = adapt(model_class)
    model = model_class(opt)
    model.training_step.setup_graphs()
    logger.info("Model [%s] is created.", type(model).__name__)
    return model
