"""An image that the card's memory does not suffice for is validated in tiles."""

from contextlib import contextmanager

import pytest
import torch
from gpu.tiles import SIDE, ends_in_tiles, model_on

pytestmark = pytest.mark.gpu


@contextmanager
def card_with(free):
    """`free` bytes and no more are left to this process."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + free) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def test_validation_ends_in_tiles(tmp_path, caplog):
    model = model_on(tmp_path, "cuda")
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    with model.predictor() as predict:
        torch.cuda.reset_peak_memory_stats()
        predict(torch.rand(1, 3, SIDE, SIDE))
        needed = torch.cuda.max_memory_reserved() - before
    ends_in_tiles(model, card_with(int(0.7 * needed)), caplog)
