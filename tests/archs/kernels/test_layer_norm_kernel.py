"""The Triton LayerNorm against PyTorch's in float64."""

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("triton")

from triton_cases import DEVICE, SIZES, assert_near

from basicsr.archs.kernels.layer_norm import layer_norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels", [1, 40, 64, 210])
@pytest.mark.parametrize("real", SIZES)
def test_values_and_gradients(real, channels, dtype):
    shape = (16, 4096, channels) if real else (2, 101, channels)
    x = (torch.randn(shape) * 3 + 7).to(DEVICE, dtype)
    given = [x, *(torch.randn(channels).to(DEVICE) for _ in range(2))]
    mine = [t.clone().requires_grad_() for t in given]
    exact = [t.double().requires_grad_() for t in given]
    out = layer_norm(*mine, eps=1e-5)
    expected = F.layer_norm(exact[0], (channels,), *exact[1:], eps=1e-5)
    assert out.dtype == dtype
    assert_near(out, expected.detach(), dtype, factor=5)
    weight = torch.randn_like(out)
    out.backward(weight)
    expected.backward(weight.double())
    for ours, theirs in zip(mine, exact, strict=True):
        assert ours.grad.dtype == ours.dtype
        assert_near(ours.grad, theirs.grad, dtype, factor=10)


def test_strided_input_and_one_dimension():
    x = torch.randn(40, 24, device=DEVICE).T  # the last dimension is not contiguous
    weight, bias = torch.randn(40, device=DEVICE), torch.randn(40, device=DEVICE)
    torch.testing.assert_close(layer_norm(x, weight, bias), F.layer_norm(x, (40,), weight, bias))
    torch.testing.assert_close(layer_norm(x[0], weight, bias), F.layer_norm(x[0], (40,), weight, bias))


def test_constant_rows_give_the_bias():
    bias = torch.randn(10, device=DEVICE)
    x = torch.full((3, 10), 1e4, device=DEVICE, requires_grad=True)
    out = layer_norm(x, torch.ones(10, device=DEVICE), bias)
    torch.testing.assert_close(out, bias.expand(3, 10))
    out.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_no_rows():
    x = torch.zeros(0, 5, device=DEVICE, requires_grad=True)
    weight = torch.ones(5, device=DEVICE, requires_grad=True)
    layer_norm(x, weight, torch.zeros(5, device=DEVICE)).sum().backward()
    assert x.grad.shape == x.shape
    assert (weight.grad == 0).all()


def test_invalid_shapes_and_types_are_errors():
    x, weight = torch.zeros(3, 5, device=DEVICE), torch.ones(5, device=DEVICE)
    with pytest.raises(ValueError, match="channels"):
        layer_norm(x, weight[:4], weight)
    with pytest.raises(TypeError, match="float64"):
        layer_norm(x.double(), weight, weight)
