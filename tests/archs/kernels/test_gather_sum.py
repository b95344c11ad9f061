"""Sums of gathered rows by the Triton kernel against PyTorch in float64."""

import pytest
import torch

pytest.importorskip("triton")

from triton_cases import DEVICE, SIZES, assert_near

from basicsr.archs.kernels.gather_sum import gather_sum


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("real", SIZES)
@pytest.mark.parametrize("channels", [1, 130])
def test_any_taps_and_columns(channels, real, dtype):
    number, length = (20_000, 30_000) if real else (75, 30)
    x = torch.randn(2, length, channels).to(DEVICE, dtype)
    index = torch.randint(-2, length, (number, 3), dtype=torch.int32).to(DEVICE)
    rows = torch.randperm(2 * number, dtype=torch.int32).view(2, number).to(DEVICE)
    out = torch.zeros(2 * number, channels + 2, dtype=dtype, device=DEVICE)
    gather_sum(out[:, 2:], x.transpose(0, 1).contiguous().transpose(0, 1), index, rows)
    taken = x.double()[:, index.long().clamp(min=0)] * (index >= 0)[:, :, None]
    assert_near(out[rows.long(), 2:], taken.sum(dim=2), dtype)
    assert (out[:, :2] == 0).all()


def test_no_images():
    index, rows = (torch.zeros(n, 3, dtype=torch.int32, device=DEVICE) for n in (3, 0))
    out = torch.ones(4, 2, device=DEVICE)
    gather_sum(out, torch.zeros(0, 3, 2, device=DEVICE), index, rows)
    assert (out == 1).all()
