"""What the tests of the Triton kernels share: where they run, and comparison with float64."""

import pytest
import torch

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
# Of a small interpreted case, and of a realistic one on a card.
SIZES = [pytest.param(False, id="small"), pytest.param(True, id="real", marks=pytest.mark.gpu)]
# Largest difference allowed, in parts of the largest value. A card multiplies float32 as three TF32 products.
TOLERANCE = {torch.float32: 1e-5 if CUDA else 2e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def assert_near(mine, exact, dtype, factor=1.0):
    """Compare with float64: by the largest value, which rounding errors of sums follow."""
    assert torch.isfinite(mine).all()
    largest = exact.abs().max().item()
    torch.testing.assert_close(mine.double(), exact, rtol=0, atol=TOLERANCE[dtype] * factor * max(largest, 1e-3))
