"""The Triton attention to global keys against PyTorch in float64."""

import pytest
import torch

pytest.importorskip("triton")

from triton_cases import DEVICE, SIZES, assert_near

from basicsr.archs.kernels.global_attention import global_attention
from basicsr.archs.layers.windows import Heads


def plain(qkv, global_kv, heads, base=None):
    q = qkv[:, : heads.number * heads.qk].unflatten(1, (heads.number, heads.qk)).transpose(0, 1)
    k, v = global_kv.split([heads.qk, heads.v], dim=-1)
    out = ((q @ k.mT / heads.qk**0.5).softmax(dim=-1) @ v).transpose(0, 1).flatten(1)
    return out if base is None else out + base


def compare(heads, rows, keys, dtype, with_base=True, size=1.0):
    given = [torch.randn(rows, heads.columns) * size, torch.randn(heads.number, keys, heads.qk + heads.v)]
    given += [torch.randn(rows, heads.number * heads.v)] if with_base else []
    given = [x.to(DEVICE, dtype) for x in given]
    mine = [x.clone().requires_grad_() for x in given]
    exact = [x.double().requires_grad_() for x in given]
    out = global_attention(*mine[:2], heads, *mine[2:])
    expected = plain(*exact[:2], heads, *exact[2:])
    assert out.dtype == dtype
    assert_near(out, expected.detach(), dtype, factor=size)
    weight = torch.randn_like(out)
    out.backward(weight)
    expected.backward(weight.double())
    for ours, theirs in zip(mine, exact, strict=True):
        assert_near(ours.grad, theirs.grad, dtype, factor=5 * size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("keys", [1, 17, 64])
@pytest.mark.parametrize("real", SIZES)
def test_values_and_gradients(real, keys, dtype):
    compare(Heads(4, 9, 10) if real else Heads(2, 9, 10), 65536 if real else 130, keys, dtype)


@pytest.mark.parametrize("heads", [Heads(1, 35, 12), Heads(3, 1, 2), Heads(1, 12, 70)], ids=str)
@pytest.mark.parametrize("with_base", [pytest.param(False, marks=pytest.mark.slow), True])
def test_more_keys_than_a_tile_and_other_widths(heads, with_base):
    compare(heads, 90, 150, torch.float32, with_base)


def test_large_scores():
    compare(Heads(2, 5, 6), 70, 20, torch.float32, size=300.0)


def test_no_rows():
    qkv = torch.zeros(0, 32, device=DEVICE, requires_grad=True)
    global_kv = torch.randn(2, 4, 11, device=DEVICE, requires_grad=True)
    global_attention(qkv, global_kv, Heads(2, 5, 6)).sum().backward()
    assert qkv.grad.shape == qkv.shape
    assert (global_kv.grad == 0).all()


def test_invalid_shapes_and_types_are_errors():
    qkv, global_kv = torch.zeros(3, 32, device=DEVICE), torch.zeros(2, 4, 11, device=DEVICE)
    with pytest.raises(ValueError, match="global_kv"):
        global_attention(qkv, global_kv, Heads(2, 5, 7))
    with pytest.raises(ValueError, match="base"):
        global_attention(qkv, global_kv, Heads(2, 5, 6), qkv)
    with pytest.raises(TypeError, match="float64"):
        global_attention(qkv.double(), global_kv, Heads(2, 5, 6))
