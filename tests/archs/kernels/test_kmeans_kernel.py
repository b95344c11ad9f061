"""The Triton k-means step against PyTorch."""

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("triton")

from triton_cases import DEVICE, SIZES, assert_near

from basicsr.archs.kernels.kmeans import kmeans_sums, nearest_centre


def tokens_and_centres(rows, columns, number):
    z = F.normalize(torch.randn(rows, columns), dim=-1)
    return z.to(DEVICE), F.normalize(torch.randn(number, columns), dim=-1).to(DEVICE)


@pytest.mark.parametrize(("columns", "number"), [(16, 5), (40, 64), (130, 70)])
@pytest.mark.parametrize("real", SIZES)
def test_sums_counts_and_gradient(real, columns, number):
    z, centres = tokens_and_centres(65536 if real else 150, columns, number)
    chosen = nearest_centre(z, centres)
    similarity = z.double() @ centres.double().T
    taken = similarity.gather(1, chosen.long()[:, None])[:, 0]
    assert_near(taken, similarity.amax(dim=1), torch.float32)  # rounding decides between centres that are equally near
    mine, exact = z.clone().requires_grad_(), z.double().requires_grad_()
    sums = kmeans_sums(mine, centres)
    expected = F.one_hot(chosen.long(), number).double().T @ F.pad(exact, (0, 1), value=1.0)
    assert_near(sums, expected.detach(), torch.float32)
    assert torch.equal(sums[:, -1].double(), expected[:, -1])
    weight = torch.randn_like(sums)
    sums.backward(weight)
    expected.backward(weight.double())
    assert_near(mine.grad, exact.grad, torch.float32)


def test_the_lowest_index_wins_a_tie():
    z, centres = tokens_and_centres(20, 16, 3)
    doubled = centres.repeat(50, 1)  # in several tiles
    assert torch.equal(nearest_centre(z, doubled), nearest_centre(z, centres))
    assert (nearest_centre(torch.zeros_like(z), doubled) == 0).all()


def test_nan_gets_an_existing_centre():
    z, centres = tokens_and_centres(20, 16, 3)
    z[4, 5] = torch.nan
    chosen = nearest_centre(z, centres)
    assert (chosen >= 0).all()
    assert (chosen < 3).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_lower_precision(dtype):
    z, centres = tokens_and_centres(60, 16, 5)
    z = z.to(dtype).requires_grad_()
    assert torch.equal(nearest_centre(z, centres), nearest_centre(z.float(), centres))
    sums = kmeans_sums(z, centres)
    torch.testing.assert_close(sums, kmeans_sums(z.float(), centres))
    sums.sum().backward()
    assert z.grad.dtype == dtype


def test_no_rows_and_invalid_shapes():
    z, centres = tokens_and_centres(0, 16, 3)
    assert (kmeans_sums(z, centres) == 0).all()
    with pytest.raises(ValueError, match="do not fit"):
        nearest_centre(z, centres[:, :5])
    with pytest.raises(TypeError, match="centres"):
        kmeans_sums(z, centres.half())
