"""Sums of gathered rows by the Triton kernel against a dense matrix in float64."""

import pytest
import torch

pytest.importorskip("triton")

from triton_cases import DEVICE, SIZES, assert_near

from basicsr.archs.kernels.gather_sum import gather_into, gather_sum
from basicsr.archs.layers import PatchGrid


def patch_plan(grid):
    """index, weight, pixel and slot weight that make `gather_sum` the same as `PatchGrid.merge`."""
    tokens = grid.size[0] * grid.size[1]
    pixel = grid.pixels().cpu()
    order = pixel.argsort(stable=True)
    counts = pixel.bincount(minlength=tokens)
    tap = torch.arange(len(pixel)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    index = torch.full((tokens, int(counts.max())), -1, dtype=torch.int32)
    index[pixel[order], tap] = order.int()
    factor = (grid.y.weight(torch.float32)[:, None] * grid.x.weight(torch.float32)).flatten().cpu()
    plan = index, factor[:, None].expand_as(index), pixel.int(), factor[pixel]
    return [x.to(DEVICE) for x in plan]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("real", SIZES)
def test_is_the_blending_of_patches(real, dtype):
    batch, size, patch, channels = (2, (256, 256), 28, 40) if real else (2, (7, 9), 4, 5)
    grid = PatchGrid(size, patch, DEVICE)
    plan = patch_plan(grid)
    x = torch.randn(batch, grid.count * grid.area, channels).to(DEVICE, dtype)
    mine, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    out, expected = gather_sum(mine, *plan), grid.merge(exact)
    assert out.dtype == dtype
    assert_near(out, expected.detach(), dtype)
    weight = torch.randn_like(out)
    out.backward(weight)
    expected.backward(weight.double())
    assert_near(mine.grad, exact.grad, dtype)


@pytest.mark.parametrize("channels", [1, 130])
@pytest.mark.parametrize("weighted", [False, True])
def test_any_taps_and_columns(weighted, channels):
    x = torch.randn(2, 30, channels).to(DEVICE)
    index = torch.randint(-2, 30, (75, 3), dtype=torch.int32).to(DEVICE)
    weight = torch.randn(75, 3).to(DEVICE) if weighted else None
    taken = x[:, index.long().clamp(min=0)].double() * (index >= 0)[:, :, None]
    expected = (taken * (weight.double()[:, :, None] if weighted else 1)).sum(dim=2)
    assert_near(gather_sum(x.transpose(0, 1).contiguous().transpose(0, 1), index, weight), expected, torch.float32)


def test_a_gradient_needs_its_plan():
    x = torch.zeros(1, 3, 2, device=DEVICE, requires_grad=True)
    with pytest.raises(ValueError, match="pixel"):
        gather_sum(x, torch.zeros(3, 1, dtype=torch.int32, device=DEVICE), None)


def test_writes_to_chosen_rows_and_columns():
    x = torch.randn(2, 3, 4, device=DEVICE)
    out = torch.zeros(6, 7, device=DEVICE)
    index = torch.arange(3, dtype=torch.int32, device=DEVICE)[:, None]
    rows = torch.tensor([[5, 1, 3], [0, 2, 4]], dtype=torch.int32, device=DEVICE)
    gather_into(out[:, 3:], x, index, rows=rows)
    assert torch.equal(out[rows.flatten().long(), 3:], x.flatten(0, 1))
    assert (out[:, :3] == 0).all()


def test_no_images():
    index = torch.zeros(3, 1, dtype=torch.int32, device=DEVICE)
    assert gather_sum(torch.zeros(0, 3, 2, device=DEVICE), index, None).shape == (0, 3, 2)
