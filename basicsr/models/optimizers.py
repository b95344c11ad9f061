"""The optimizers that `train.optim_g.type` can name: PyTorch's own, under their own names."""

import torch

from basicsr.utils.registry import OPTIMIZER_REGISTRY

for _name in ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "SGD", "RMSprop", "Adagrad", "Adadelta"):
    OPTIMIZER_REGISTRY.register(getattr(torch.optim, _name))
