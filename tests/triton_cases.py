"""Device, sizes and tolerances of the Triton kernels' tests, and their comparison with float64."""

import pytest
import torch

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
# A small case for the interpreter, and a realistic one for a GPU.
SIZES = [pytest.param(False, id="small"), pytest.param(True, id="real", marks=pytest.mark.gpu)]
# Largest difference allowed, relative to the largest value. GPUs multiply float32 as three TF32 products.
TOLERANCE = {torch.float32: 1e-5 if CUDA else 2e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def assert_near(mine, exact, dtype, factor=1.0):
    """Check that `mine` equals `exact` (float64) up to rounding, which in sums grows with the largest value."""
    assert torch.isfinite(mine).all()
    largest = exact.abs().max().item()
    torch.testing.assert_close(mine.double(), exact, rtol=0, atol=TOLERANCE[dtype] * factor * max(largest, 1e-3))
