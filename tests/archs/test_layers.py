"""Building blocks against plain loops, and their hand-written gradients against finite differences."""

import pytest
import torch
from torch.nn import functional as F

from basicsr.archs.layers import (
    PatchGrid,
    mirrored_index,
    pad_head_columns,
    pad_head_rows,
    padded_width,
    permute_tokens,
    stable_group_order,
)

CPU = torch.device("cpu")
SIZES = [(1, 1), (1, 9), (8, 8), (9, 8), (13, 20), (14, 14), (15, 31), (29, 30)]


def starts_of(side, patch):
    """Left ends of the patches of one axis, by walking."""
    patch_here, starts = min(patch, side), [0]
    while starts[-1] + patch_here < side:
        starts.append(min(starts[-1] + patch - 2, side - patch_here))
    return starts, patch_here


@pytest.mark.parametrize("size", SIZES)
def test_cut_takes_the_patches_a_loop_takes(size):
    x = torch.arange(2 * size[0] * size[1] * 3.0).view(2, *size, 3)
    (tops, height), (lefts, width) = (starts_of(side, 8) for side in size)
    loop = [x[b, t : t + height, w : w + width] for b in range(2) for t in tops for w in lefts]
    cut = PatchGrid(size, 8, CPU).cut(x.flatten(1, 2))
    assert torch.equal(cut, torch.stack(loop).flatten(1, 2))


@pytest.mark.parametrize("size", SIZES)
def test_merge_sums_and_halves_each_band(size):
    grid = PatchGrid(size, 8, CPU)
    (tops, height), (lefts, width) = (starts_of(side, 8) for side in size)
    patches = torch.rand(len(tops) * len(lefts), height, width, 2)
    total = torch.zeros(*size, 2)
    for patch, (t, w) in zip(patches, [(t, w) for t in tops for w in lefts], strict=True):
        total[t : t + height, w : w + width] += patch
    for i in range(1, len(tops)):
        total[tops[i] : i * 6 + 2] /= 2
    for i in range(1, len(lefts)):
        total[:, lefts[i] : i * 6 + 2] /= 2
    torch.testing.assert_close(grid.merge(patches.flatten(1, 2)), total.flatten(0, 1)[None])


@pytest.mark.parametrize("size", SIZES)
def test_scale_as_merged_is_merge_of_cut(size):
    grid, t = PatchGrid(size, 8, CPU), torch.rand(2, size[0] * size[1], 3)
    torch.testing.assert_close(grid.scale_as_merged(t), grid.merge(grid.cut(t)))


@pytest.mark.parametrize("size", [(5, 3), (9, 12)])
def test_gradients_of_cut_and_merge(size):
    grid = PatchGrid(size, 4, CPU)
    t = torch.rand(2, size[0] * size[1], 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(grid.cut, t)
    p = torch.rand(2 * grid.count, grid.area, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(grid.merge, p)
    assert torch.autograd.gradgradcheck(grid.merge, p)


def test_group_order_is_the_stable_sort_of_each_image():
    groups = torch.randint(0, 5, (3, 200))
    order, rank = stable_group_order(groups, 5)
    expected = groups.argsort(dim=1, stable=True) + 200 * torch.arange(3)[:, None]
    assert torch.equal(order.view(3, 200), expected)
    assert torch.equal(order[rank], torch.arange(600))


def test_group_order_beyond_16_bit_keys():
    groups = torch.randint(0, 30_000, (2, 50))
    order, _ = stable_group_order(groups, 30_000)
    assert torch.equal(order.view(2, 50)[1] - 50, groups[1].argsort(stable=True))


def test_permutation_and_its_gradient():
    order, rank = stable_group_order(torch.randint(0, 4, (2, 9)), 4)
    t = torch.rand(2, 9, 3, dtype=torch.float64, requires_grad=True)
    assert torch.equal(permute_tokens(permute_tokens(t, order, rank), rank, order), t)
    assert torch.autograd.gradcheck(lambda x: permute_tokens(x, order, rank), t)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_mirrored_index_bounces(length):
    forward = list(range(length))
    bounce = (forward + forward[::-1]) * 5
    assert mirrored_index(0, 17, length, CPU).tolist() == (bounce * 2)[:17]
    assert mirrored_index(3, 9, length, CPU).tolist() == (bounce * 2)[3:9]


def test_padded_heads_change_nothing():
    heads, qk, v = 2, 9, 10
    width = padded_width(qk, v)
    assert width == 12
    wq, wk = torch.rand(2, heads * qk, 7, dtype=torch.float64)
    wv, wo = torch.rand(heads * v, 7, dtype=torch.float64), torch.rand(5, heads * v, dtype=torch.float64)
    x = torch.rand(1, 11, 7, dtype=torch.float64)

    def attend(wq, wk, wv, wo):
        q, k, v = (F.linear(x, w).unflatten(-1, (heads, -1)).transpose(1, 2) for w in (wq, wk, wv))
        y = F.scaled_dot_product_attention(q, k, v, scale=qk**-0.5)
        return F.linear(y.transpose(1, 2).flatten(2), wo)

    padded = attend(*(pad_head_rows(w, heads, width) for w in (wq, wk, wv)), pad_head_columns(wo, heads, width))
    torch.testing.assert_close(padded, attend(wq, wk, wv, wo))
