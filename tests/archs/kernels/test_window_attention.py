"""The Triton window attention against the plain path in float64, with gradients."""

import pytest
import torch

pytest.importorskip("triton")

from triton_cases import CUDA, DEVICE, SIZES, assert_near

from basicsr.archs.kernels.window_attention import window_attention
from basicsr.archs.layers.groups import sorted_windows
from basicsr.archs.layers.patches import PatchGrid
from basicsr.archs.layers.plain_attention import plain_attention
from basicsr.archs.layers.shifted_windows import ShiftedWindows
from basicsr.archs.layers.windows import Heads, Inverse, PositionBias, Windows, slots_by_entry


def sizes_of(windows):
    return {name: getattr(windows, name) for name in ("number", "step", "queries", "keys", "valid")}


def inverse_of(windows, rows):
    """Return the inverse of any windows: the rows of each image, and the slots that hold them."""
    at = torch.arange(windows.number)[:, None] * windows.step + torch.arange(windows.keys)
    slots = windows.rows.cpu()[:, at.flatten()]  # (images, number * keys)
    held, entry = slots[0].unique(return_inverse=True)
    per_image = rows // len(slots)
    key_slots = slots_by_entry(entry, per_image)
    others = torch.ones(per_image, dtype=torch.bool).index_fill(0, held.long(), False).nonzero()[:, 0]
    order = same_for_all_images(torch.cat([held.long(), others]), len(slots), per_image)
    assert torch.equal(slots.to(DEVICE), order[:, : len(held)][:, entry])  # a plan is for all images
    return Inverse(order, key_slots.to(DEVICE))


def same_for_all_images(rows, images, per_image):
    return (rows[None] + torch.arange(images)[:, None] * per_image).int().to(DEVICE)


def compare(
    windows,
    heads,
    rows,
    dtype,
    *,
    scatter=False,
    numbers=None,
    labels=None,
    uniform=0,
    factor=None,
    size=1.0,
    global_kv=None,
):
    """Compare outputs and the gradients of all inputs; return the gradient of qkv."""
    qkv = (torch.randn(rows, heads.columns) * size).to(DEVICE, dtype)
    given = [qkv, numbers, factor, global_kv]
    mine = [x.clone().requires_grad_() if x is not None else None for x in given]
    exact = [x.double().requires_grad_() if x is not None else None for x in given]
    inverse = inverse_of(windows, rows) if torch.are_deterministic_algorithms_enabled() else None
    out = window_attention(
        mine[0], windows.rows, **sizes_of(windows),
        heads=heads, scatter=scatter, numbers=mine[1], labels=labels, uniform=uniform, factor=mine[2], inverse=inverse,
        global_kv=mine[3],
    )  # fmt: skip
    weight = torch.randn_like(out)
    out.backward(weight)
    bias = PositionBias(exact[1], labels, uniform) if numbers is not None else None
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)  # PyTorch's own functions need no deterministic form here
    expected = plain_attention(exact[0], windows, heads, exact[3], scatter, bias, exact[2])
    expected.backward(weight.double())
    torch.use_deterministic_algorithms(deterministic)
    assert out.dtype == dtype
    assert_near(out, expected.detach(), dtype, factor=size)
    for name, ours, theirs in zip(("qkv", "numbers", "factor", "global_kv"), mine, exact, strict=True):
        if ours is not None:
            assert ours.grad.dtype == ours.dtype, name
            assert_near(ours.grad, theirs.grad, dtype, factor=size * (5 if name != "factor" else 50))
    return mine[0].grad


def sub_groups(length, size, images=2, reach=2):
    order = torch.randperm(length) if not torch.are_deterministic_algorithms_enabled() else torch.arange(length)
    orders = torch.stack([order + image * length for image in range(images)])
    return sorted_windows(orders.to(DEVICE), size, reach)


@pytest.fixture(params=["atomic", "deterministic"])
def form(request):
    torch.use_deterministic_algorithms(request.param == "deterministic")
    yield request.param
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("real", SIZES)
def test_sub_groups_with_keys_of_the_next(form, real, dtype):
    """Sub-groups mirrored at the end and scattered back to the rows of their queries, in several images."""
    cases = [(4096, 256), (4096, 32), (4000, 128)] if real else [(45, 16)]
    for length, size in cases:
        compare(sub_groups(length, size), Heads(4, 9, 10) if real else Heads(2, 9, 10), 2 * length, dtype, scatter=True)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("keys", [17, 70])
@pytest.mark.parametrize("real", SIZES)
def test_windows_with_global_keys(form, real, keys, dtype):
    length, size, heads = (4096, 128, Heads(4, 9, 10)) if real else (45, 16, Heads(2, 9, 10))
    global_kv = torch.randn(heads.number, keys, 19).to(DEVICE, dtype)
    compare(sub_groups(length, size), heads, 2 * length, dtype, scatter=True, global_kv=global_kv)


@pytest.mark.parametrize("real", SIZES)
def test_overlapping_patches(form, real):
    for size, patch in [((64, 64), 16), ((256, 256), 28)] if real else [((7, 9), 5)]:
        images = 2
        windows = PatchGrid(size, patch).windows(images, torch.empty(0, device=DEVICE))
        heads = Heads(4, 9, 10) if real else Heads(2, 9, 10)
        compare(windows, heads, images * size[0] * size[1], torch.float32)


@pytest.mark.parametrize("heads", [Heads(1, 12, 12), Heads(2, 35, 35), Heads(1, 16, 54), Heads(2, 1, 3)], ids=str)
@pytest.mark.parametrize("real", SIZES)
def test_widths_of_heads(real, heads):
    compare(sub_groups(4096 if real else 40, 256 if real else 20, 1, 1), heads, 4096 if real else 40,
            torch.float32, scatter=True)  # fmt: skip


@pytest.mark.parametrize("large", [pytest.param(0.1, marks=pytest.mark.slow), 30.0])
@pytest.mark.parametrize("real", SIZES)
def test_bias_and_labels_of_shifted_windows(form, real, large):
    size, side = ((64, 64), 16) if real else ((8, 12), 4)
    heads = Heads(4, 12, 12) if real else Heads(2, 12, 12)
    shifted = ShiftedWindows(size, side, side // 2, torch.empty(2, 0, device=DEVICE))
    numbers = (torch.randn(heads.number, side**2, side**2) * large).to(DEVICE)
    compare(shifted.windows, heads, 2 * size[0] * size[1], torch.float32, scatter=True, numbers=numbers,
            labels=shifted.labels, uniform=shifted.uniform)  # fmt: skip


@pytest.mark.parametrize("shape", [pytest.param((), marks=pytest.mark.slow), (1, 1)])
def test_a_bias_without_labels_and_a_factor(form, shape):
    heads = Heads(2, 5, 6)
    numbers = torch.randn(2, 19, 19).to(DEVICE)
    factor = torch.full(shape, 1.7, device=DEVICE)
    compare(sub_groups(38, 19, 2, 1), heads, 76, torch.float32, scatter=True, numbers=numbers, factor=factor)
    compare(sub_groups(40, 19, 1, 2), heads, 40, torch.float32, scatter=True, factor=factor)


def test_rows_that_a_window_holds_twice(form):
    """Unscattered windows that overlap and repeat rows, with padding after the last query."""
    rows = torch.cat([torch.arange(21), torch.arange(21).flip(0)])[:37]
    windows = Windows(same_for_all_images(rows, 2, 24), 2, step=17, queries=17, keys=20, valid=34)
    compare(windows, Heads(2, 5, 6), 48, torch.float32)


def test_padding_is_written_as_zeros():
    rows = torch.arange(20, dtype=torch.int32, device=DEVICE)[None]
    qkv = torch.randn(20, 16, device=DEVICE)
    out = window_attention(qkv, rows, number=2, step=10, queries=10, keys=10, valid=15, heads=Heads(1, 5, 6))
    assert (out[15:] == 0).all()
    assert (out[:15] != 0).all()


def test_large_scores(form):
    compare(sub_groups(40, 20, 1, 1), Heads(2, 5, 6), 40, torch.float32, scatter=True, size=30.0)


@pytest.mark.gpu
def test_deterministic_gradients_repeat(deterministic):
    """They are equal bit for bit, with rows in two windows."""
    grads = []
    for _ in range(2):
        torch.manual_seed(1)
        grads.append(compare(sub_groups(8192, 64, 2), Heads(4, 9, 10), 16384, torch.float32, scatter=True))
    assert torch.equal(*grads)


def test_strided_inputs_and_gradients():
    wide = torch.randn(40, 40, device=DEVICE)
    rows = torch.arange(80, dtype=torch.int32, device=DEVICE).view(40, 2)[:, :1].T // 2
    sizes = {"number": 2, "step": 20, "queries": 20, "keys": 20, "valid": 40, "heads": Heads(2, 5, 6), "scatter": True}
    mine, plain = (wide.clone().requires_grad_() for _ in range(2))
    weight = torch.randn(12, 40, device=DEVICE).T
    (window_attention(mine[:, :32], rows, **sizes) * weight).sum().backward()
    (window_attention(plain[:, :32].contiguous(), rows.contiguous(), **sizes) * weight.contiguous()).sum().backward()
    torch.testing.assert_close(mine.grad, plain.grad)


def test_no_images():
    qkv = torch.randn(0, 32, device=DEVICE, requires_grad=True)
    rows = torch.zeros(0, 40, dtype=torch.int32, device=DEVICE)
    for scatter in (False, True):
        out = window_attention(
            qkv, rows, number=2, step=20, queries=20, keys=20, valid=40, heads=Heads(2, 5, 6), scatter=scatter
        )
        assert out.shape == (0, 12)
        out.sum().backward()
        assert qkv.grad.shape == qkv.shape


def test_invalid_shapes_and_types_are_errors(deterministic):
    rows = torch.zeros(1, 40, dtype=torch.int32, device=DEVICE)
    qkv = torch.randn(40, 32, device=DEVICE)
    sizes = {"number": 2, "step": 10, "queries": 10, "keys": 20, "valid": 40, "heads": Heads(2, 5, 6)}
    with pytest.raises(ValueError, match="inverse"):
        window_attention(qkv.requires_grad_(), rows, **sizes)
    with pytest.raises(ValueError, match="columns"):
        window_attention(qkv[:, :31], rows, **sizes)
    with pytest.raises(ValueError, match="128"):
        window_attention(torch.zeros(40, 400, device=DEVICE), rows, **sizes | {"heads": Heads(1, 129, 142)})
    with pytest.raises(ValueError, match="places"):
        window_attention(qkv, rows[:, :29], **sizes)
    with pytest.raises(ValueError, match="scatter"):
        window_attention(qkv.detach(), rows, **sizes, global_kv=torch.zeros(2, 4, 11, device=DEVICE))
    with pytest.raises(TypeError, match="float64"):
        window_attention(qkv.double(), rows, **sizes)


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="needs CUDA")
def test_never_waits_for_the_gpu():
    heads, factor = Heads(2, 9, 10), torch.tensor(1.5, device=DEVICE, requires_grad=True)
    windows = sub_groups(4096, 128)
    qkv = torch.randn(8192, heads.columns, device=DEVICE, requires_grad=True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            window_attention(
                qkv, windows.rows, **sizes_of(windows), heads=heads, scatter=True, factor=factor
            ).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="needs CUDA")
def test_is_captured_in_a_cuda_graph(form):
    heads = Heads(2, 9, 10)
    windows = sub_groups(4096, 128)
    inverse = inverse_of(windows, 8192) if form == "deterministic" else None
    qkv = torch.randn(8192, heads.columns, device=DEVICE, requires_grad=True)
    global_kv = torch.randn(2, 16, 19, device=DEVICE, requires_grad=True)

    def step():
        qkv.grad = None
        call = {**sizes_of(windows), "heads": heads, "scatter": True, "inverse": inverse, "global_kv": global_kv}
        out = window_attention(qkv, windows.rows, **call)
        out.square().sum().backward()
        return out.detach(), qkv.grad

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        qkv.copy_(torch.randn_like(qkv))
    graph.replay()
    replayed = [x.clone() for x in captured]
    for ours, eager in zip(replayed, step(), strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-5)
