"""Models: networks with their losses, optimizers and checkpoints. A model sees batches and options, never data sets."""

import logging
from typing import TYPE_CHECKING

from basicsr.config.registry import MODEL_REGISTRY

if TYPE_CHECKING:
    from basicsr.config.schema import Options
    from basicsr.models.base_model import BaseModel

logger = logging.getLogger("basicsr")


def build_model(opt: "Options") -> "BaseModel":
    """Return the model that `model_type` names, built with the options of the run."""
    model = MODEL_REGISTRY.get(opt.model_type)(opt)
    model.training_step.setup_graphs()
    logger.info("Model [%s] is created.", type(model).__name__)
    return model
