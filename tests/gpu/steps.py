"""Training steps of a model, without a data set."""

import torch
from gpu.training import KINDS, with_device
from helpers import resolved_options

from basicsr.models import build_model

WARM_UP = 3  # steps that plan, compile and allocate
RECIPES = {
    "plain": {"ema_decay": 0.9, "grad_clip": 0.5},
    "bfloat16": {"ema_decay": 0.9, "grad_clip": 0.5, "amp": "bf16"},
    "AdamW": {"ema_decay": 0.9, "grad_clip": 0.5, "optim_g": {"type": "AdamW", "lr": 1e-3}},
}


def warmed_up_step(folder, kind, recipe, device, **train):
    """Return a function that takes one training step on a batch on the device, after `WARM_UP` steps."""
    values = KINDS[kind](folder)
    for key in ("iters", "mini_batch_sizes", "gt_sizes"):
        values["datasets"]["train"].pop(key, None)  # a stage picks its samples by index, which is a copy to the GPU
    changes = {"optim_g": {"type": "Adam", "lr": 1e-3}, **RECIPES[recipe], **train}
    values = {**with_device(device, values), "deterministic": False, "train": {**values["train"], **changes}}
    model = build_model(resolved_options(folder, values))
    side = 12 * values["scale"]
    batch = {"lq": torch.rand(2, 3, 12, 12, device=device), "gt": torch.rand(2, 3, side, side, device=device)}
    done = 0

    def step():
        nonlocal done
        done += 1
        model.update_learning_rate(done)
        model.feed_data(batch)
        model.optimize_parameters(done)
        return model

    for _ in range(WARM_UP):
        step()
    return step
