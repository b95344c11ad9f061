"""Seeds and states of all random number generators of a process."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """Return the states of Python's, NumPy's and PyTorch's generators as plain values and tensors."""
    numpy_state: Any = np.random.get_state()
    version, keys, gauss = random.getstate()
    state = {
        "python": (version, list(keys), gauss),
        "numpy": (numpy_state[0], torch.from_numpy(numpy_state[1].astype(np.int64)), *numpy_state[2:]),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Restore the random number generators at the end of the block."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)


@contextmanager
def seeded_generators(key: Sequence[int]) -> Iterator[None]:
    """Seed the generators of Python, NumPy and PyTorch's CPU from numbers >= 0, and restore them at the end."""
    number = int(np.random.SeedSequence(list(key)).generate_state(1)[0])
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            random.seed(number)
            np.random.seed(number)
            torch.manual_seed(number)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore the generators from the result of `rng_state`."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    name, numpy_keys, *rest = state["numpy"]
    np.random.set_state((name, numpy_keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
