"""The training state of a run: optimizers, scaler and random generators, gathered for a file and restored from it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from basicsr.engine.distributed import gather_objects, get_dist_info
from basicsr.engine.optimizer_groups import load_state, optimizer_mismatch, plain_state
from basicsr.engine.random_state import rng_state, set_rng_state
from basicsr.errors import CheckpointError

logger = logging.getLogger("basicsr")
Optimizers = Sequence[torch.optim.Optimizer]


def gather_state(optimizers: Optimizers, scaler: torch.amp.GradScaler) -> dict[str, Any]:
    """Return the state of optimizers, scaler and, from every process, random generators; all processes call it."""
    return {
        "optimizers": [plain_state(optimizer) for optimizer in optimizers],
        "schedulers": [],  # the rate is a function of the iteration; old readers expect the key
        "rng": gather_objects(rng_state()),
        "scaler": scaler.state_dict(),  # empty without float16
    }


def restore_optimizers(
    optimizers: Optimizers, states: Sequence[Mapping[str, Any]], source: str, reset_on_mismatch: bool
) -> None:
    """Load the states of optimizers; their settings, such as rates, stay those of the options.

    Args:
        optimizers: of this run.
        states: their saved states.
        source: name of the file, for messages.
        reset_on_mismatch: warn and leave the optimizers as they are where the states do not fit.

    Raises:
        CheckpointError: when the states are of other parameters or optimizers.
    """
    problem = ""
    if len(states) != len(optimizers):
        problem = f"there are {len(states)}, and this run has {len(optimizers)}"
    for optimizer, saved in zip(optimizers, states, strict=False):
        problem = problem or optimizer_mismatch(optimizer, saved)
    if problem and not reset_on_mismatch:
        raise CheckpointError(
            f"{source}: the optimizers of its state do not fit: {problem}; resume with the optimizers of that run, "
            "or reset them with --force_resume"
        )
    if problem:
        logger.warning("%s: the optimizers are reset, because those of its state do not fit: %s", source, problem)
        return
    for optimizer, saved in zip(optimizers, states, strict=True):
        load_state(optimizer, saved)


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Set this process's random generators to those of a training state; a state without them changes nothing."""
    rng = state.get("rng", [])
    rank = get_dist_info()[0]
    if rank < len(rng):
        set_rng_state(rng[rank])


def write_on_rank0(write: Callable[[], object]) -> None:
    """Call `write` in rank 0. When it fails, all processes raise the error, so that none waits for the others.

    Raises:
        OSError: in every process.
    """
    problem = ""
    if get_dist_info()[0] == 0:
        try:
            write()
        except OSError as error:
            problem = str(error)
    problem = gather_objects(problem)[0]
    if problem:
        raise OSError(problem)
