"""Steps and runs of a PruneDistillModel, for its tests."""

import logging

import pytest
import torch
import yaml

LOGGER = logging.getLogger("basicsr")
CNN = {"type": "ResidualCNN", "upscale": 2}
NO_FEATURES = {"sa": {"weight": 0.0}}


def batch(it, size=2):
    generator = torch.Generator().manual_seed(it)
    return {k: torch.rand(size, 3, s, s, generator=generator) for k, s in (("lq", 12), ("gt", 24))}


def step(model, it, **changed):
    model.update_learning_rate(it)
    model.feed_data({**batch(it), **changed})
    model.optimize_parameters(it)


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(before, module):
    """Names whose values are others now, bit for bit."""
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def run(command, folder, values, *flags):
    """Exit code of a command that runs here, in `folder`, with options or an option file there."""
    path = values
    if isinstance(values, dict):
        path = f"{values['name']}.yml"
        (folder / path).write_text(yaml.safe_dump(values, sort_keys=False))
    torch.set_num_threads(1)
    level = LOGGER.level
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(LOGGER, "handlers", [])
        patch.setattr(LOGGER, "propagate", True)
        code = command.main(["-opt", path, *flags])
        for handler in LOGGER.handlers:
            handler.close()
    LOGGER.setLevel(level)
    return code


def equal(mine, theirs):
    """Whether nested containers and tensors are the same, bit for bit."""
    if isinstance(theirs, dict):
        return mine.keys() == theirs.keys() and all(equal(mine[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list | tuple):
        return len(mine) == len(theirs) and all(map(equal, mine, theirs))
    return torch.equal(mine, theirs) if isinstance(theirs, torch.Tensor) else mine == theirs
