"""Building blocks against plain loops, and a hand-written gradient against finite differences."""

import pytest
import torch

from basicsr.archs.layers.groups import stable_group_order
from basicsr.archs.layers.patches import PatchGrid
from basicsr.archs.layers.tokens import mirrored_index

CPU = torch.device("cpu")
SIZES = [(1, 1), (1, 9), (8, 8), (9, 8), (13, 20), (14, 14), (15, 31), (29, 30)]


def starts_of(side, patch):
    """Left ends of the patches of one axis, by walking."""
    patch_here, starts = min(patch, side), [0]
    while starts[-1] + patch_here < side:
        starts.append(min(starts[-1] + patch - 2, side - patch_here))
    return starts, patch_here


@pytest.mark.parametrize("size", SIZES)
def test_windows_hold_the_patches_a_loop_takes(size):
    tokens = torch.arange(2 * size[0] * size[1], dtype=torch.int32).view(2, *size)
    (tops, height), (lefts, width) = (starts_of(side, 8) for side in size)
    loop = [tokens[:, t : t + height, w : w + width].flatten(1) for t in tops for w in lefts]
    windows = PatchGrid(size, 8).windows(2, torch.empty(0))
    assert torch.equal(windows.rows, torch.cat(loop, dim=1))
    assert (windows.number, windows.step) == (len(loop), height * width)


@pytest.mark.parametrize("size", SIZES)
def test_merge_sums_and_halves_each_band(size):
    grid = PatchGrid(size, 8)
    (tops, height), (lefts, width) = (starts_of(side, 8) for side in size)
    patches = torch.rand(len(tops) * len(lefts), height, width, 2)
    total = torch.zeros(*size, 2)
    for patch, (t, w) in zip(patches, [(t, w) for t in tops for w in lefts], strict=True):
        total[t : t + height, w : w + width] += patch
    for i in range(1, len(tops)):
        total[tops[i] : i * 6 + 2] /= 2
    for i in range(1, len(lefts)):
        total[:, lefts[i] : i * 6 + 2] /= 2
    torch.testing.assert_close(grid.merge(patches.flatten(0, 2)[None]), total.flatten(0, 1)[None])


@pytest.mark.parametrize("size", SIZES)
def test_scale_as_merged_is_taking_and_merging(size):
    grid, t = PatchGrid(size, 8), torch.rand(2, size[0] * size[1], 3)
    patches = t.flatten(0, 1)[grid.windows(2, t).rows.flatten().long()]
    torch.testing.assert_close(grid.scale_as_merged(t), grid.merge(patches.view(2, -1, 3)))


@pytest.mark.parametrize("size", [(5, 3), (7, 8)])
def test_gradients_of_merging(size):
    grid = PatchGrid(size, 4)
    p = torch.rand(2, grid.count * grid.area, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(grid.merge, p)
    assert torch.autograd.gradgradcheck(grid.merge, p)


def test_group_order_is_the_stable_sort_of_each_image():
    groups = torch.randint(0, 5, (3, 200))
    expected = groups.argsort(dim=1, stable=True) + 200 * torch.arange(3)[:, None]
    assert torch.equal(stable_group_order(groups, 5), expected)


def test_group_order_beyond_16_bit_keys():
    groups = torch.randint(0, 30_000, (2, 50))
    assert torch.equal(stable_group_order(groups, 30_000)[1] - 50, groups[1].argsort(stable=True))


@pytest.mark.parametrize("length", [1, 2, 5])
def test_mirrored_index_bounces(length):
    forward = list(range(length))
    bounce = (forward + forward[::-1]) * 5
    assert mirrored_index(0, 17, length, CPU).tolist() == (bounce * 2)[:17]
    assert mirrored_index(3, 9, length, CPU).tolist() == (bounce * 2)[3:9]
