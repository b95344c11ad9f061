"""An image too large for the GPU's memory is validated in tiles."""

from contextlib import contextmanager

import pytest
import torch
from gpu.tiles import SIDE, build_model_on, check_validation_in_tiles

pytestmark = pytest.mark.gpu


@contextmanager
def limited_device_memory(free):
    """Limit the GPU memory that this process can still allocate to `free` bytes."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + free) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def test_validation_ends_in_tiles(tmp_path, caplog):
    model = build_model_on(tmp_path, "cuda")
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    with model.predictor() as predict:
        torch.cuda.reset_peak_memory_stats()
        predict(torch.rand(1, 3, SIDE, SIDE))
        needed = torch.cuda.max_memory_reserved() - before
    check_validation_in_tiles(model, limited_device_memory(int(0.7 * needed)), caplog)
