"""Steps and runs of a PruneDistillModel, for its tests."""

import torch
from helpers import run_here, write_options

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
    """Return the exit code of a command that runs in this process, with options or an option file in `folder`."""
    path = write_options(folder, values).name if isinstance(values, dict) else values
    return run_here(command, folder, "-opt", path, *flags)


def equal(mine, theirs):
    """Whether nested containers and tensors are the same, bit for bit."""
    if isinstance(theirs, dict):
        return mine.keys() == theirs.keys() and all(equal(mine[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list | tuple):
        return len(mine) == len(theirs) and all(map(equal, mine, theirs))
    return torch.equal(mine, theirs) if isinstance(theirs, torch.Tensor) else mine == theirs
