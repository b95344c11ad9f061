"""The compiled kernel and its plain fallback against one attention at a time in float64."""

import pytest
import torch
from torch.nn import functional as F

from basicsr.archs.kernels import compiled_attention as module
from basicsr.archs.layers.attention import gathered_attention
from basicsr.archs.layers.plain_attention import plain_attention
from basicsr.archs.layers.windows import FAR, Heads, PositionBias, Windows

HEADS = Heads(number=3, qk=5, v=6)


@pytest.fixture(params=["kernel", "triton", "plain"])
def path(request, monkeypatch, tmp_path_factory):
    """Run a test with the C++ kernel, freshly compiled for these tests, with those of Triton, and without kernels."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp()))
    if request.param == "plain":
        monkeypatch.setenv("BASICSR_KERNELS", "0")
    if request.param == "triton":
        pytest.importorskip("triton")
        if torch.cuda.is_available():
            pytest.skip("Triton's interpreter is off where there is a GPU; tests/archs/kernels run on it")
        monkeypatch.setenv("BASICSR_TRITON_ON_CPU", "1")
    module.kernel_library.cache_clear()
    if request.param == "kernel" and module.kernel_library(HEADS.qk, HEADS.v) is None:
        pytest.skip("no C++ compiler here")
    yield request.param
    module.kernel_library.cache_clear()


def attention(qkv, queries, keys, global_kv=None):
    """(queries, heads * v) of one window, in float64."""
    q, k, v = qkv.double().split([15, 15, 18], dim=1)
    out = []
    for h in range(3):
        qh, kh, vh = q[queries, 5 * h : 5 * h + 5], k[keys, 5 * h : 5 * h + 5], v[keys, 6 * h : 6 * h + 6]
        y = F.softmax(qh @ kh.T / 5**0.5, dim=1) @ vh
        if global_kv is not None:
            gk, gv = global_kv[h].double().split([5, 6], dim=1)
            y = y + F.softmax(qh @ gk.T / 5**0.5, dim=1) @ gv
        out.append(y)
    return torch.cat(out, dim=1)


@pytest.mark.parametrize("side", [1, 7, 16, 40])
def test_windows_one_after_the_other(path, side):
    qkv = torch.randn(100, HEADS.columns)
    rows = torch.randint(0, 100, (2, 3 * side), dtype=torch.int32)
    windows = Windows(rows, number=3, step=side, queries=side, keys=side, valid=3 * side)
    out = gathered_attention(qkv, windows, HEADS)
    expected = [attention(qkv, w.long(), w.long()) for w in rows.view(6, side)]
    torch.testing.assert_close(out.double(), torch.cat(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [1, 19, 64])
def test_scattered_overlapping_windows_with_global_keys(path, length):
    size = min(length, 16)
    number = -(-length // size)
    qkv, global_kv = torch.randn(2 * length, HEADS.columns), torch.randn(3, 9, 11)
    order = torch.stack([torch.randperm(length), length + torch.randperm(length)])
    places = torch.cat([torch.arange(length), torch.arange(length).flip(0)]).repeat(16)[: (number + 1) * size]
    windows = Windows(order[:, places].int(), number, step=size, queries=size, keys=2 * size, valid=length)
    out = gathered_attention(qkv, windows, HEADS, global_kv, scatter=True)
    expected = torch.zeros(2 * length, 18, dtype=torch.float64)
    for image in range(2):
        for w in range(number):
            queries = order[image, w * size : min((w + 1) * size, length)]
            keys = order[image, places[w * size : (w + 2) * size]]
            expected[queries] = attention(qkv, queries, keys, global_kv)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [12.0, 200.0])
def test_scores_beyond_what_exponentials_hold(path, size):
    """Scores up to several thousands: the largest is subtracted, nothing overflows or vanishes."""
    qkv = torch.randn(50, HEADS.columns)
    qkv[:, :30] *= size
    rows = torch.arange(50, dtype=torch.int32)[None]
    out = gathered_attention(qkv, Windows(rows, 1, 50, 50, 50, 50), HEADS)
    everything = torch.arange(50)
    expected = attention(qkv, everything, everything)
    assert torch.isfinite(out).all()
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-6 * size**2)


@pytest.mark.parametrize("size", [0.5, 8.0])
@pytest.mark.parametrize("scatter", [False, True])
def test_gradients(path, scatter, size):
    """Against autograd in float64, with windows that share rows and, scattered, with global keys."""
    heads = 3
    qkv = torch.randn(2 * 21, HEADS.columns) * size
    global_kv = torch.randn(heads, 9, 11) * size if scatter else None
    if scatter:
        order = torch.stack([torch.randperm(21), 21 + torch.randperm(21)])
        places = torch.cat([torch.arange(21), torch.arange(21).flip(0)])[:40]
        windows = Windows(order[:, places].int(), 3, step=8, queries=8, keys=16, valid=21)
    else:
        rows = torch.randint(0, 21, (2, 57), dtype=torch.int32) + torch.tensor([[0], [21]], dtype=torch.int32)
        windows = Windows(rows, 3, 19, 19, 19, 57)
    inputs = [x.clone().requires_grad_() for x in (qkv, global_kv) if x is not None]
    exact = [x.double().requires_grad_() for x in (qkv, global_kv) if x is not None]
    out = gathered_attention(inputs[0], windows, HEADS, *inputs[1:], scatter=scatter)
    expected = plain_attention(exact[0], windows, HEADS, exact[1] if scatter else None, scatter)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight.double()).sum().backward()
    rounding = 5e-5 if path == "triton" else 2e-5  # it keeps a score's sum as its logarithm
    for mine, theirs in zip(inputs, exact, strict=True):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-4, atol=rounding * size)


@pytest.mark.parametrize("large", [0.1, 30.0])
@pytest.mark.parametrize(("side", "masked"), [(5, True), (16, False), (37, True)])
def test_bias_and_labels(path, side, masked, large):
    """Values and gradients against autograd in float64; large biases need the largest score subtracted."""
    number = 4
    rows = torch.stack([torch.randperm(number * side), number * side + torch.randperm(number * side)]).int()
    windows = Windows(rows, number, step=side, queries=side, keys=side, valid=number * side)
    labels = torch.randint(0, 3, (number, side), dtype=torch.int32)
    labels[0] = 1
    qkv, numbers = torch.randn(2 * number * side, HEADS.columns), torch.randn(3, side, side) * large
    inputs = [x.clone().requires_grad_() for x in (qkv, numbers)]
    bias = PositionBias(inputs[1], labels, uniform=1) if masked else PositionBias(inputs[1])
    out = gathered_attention(inputs[0], windows, HEADS, scatter=True, bias=bias)

    exact = [x.double().requires_grad_() for x in (qkv, numbers)]
    q, k, v = (
        x.unflatten(1, (3, -1))[rows.long()].unflatten(1, (number, side)).transpose(2, 3)
        for x in exact[0].split([15, 15, 18], dim=1)
    )  # (images, windows, heads, side, width)
    scores = q @ k.mT / 5**0.5 + exact[1]
    if masked:
        scores = scores + FAR * (labels[:, None, :, None] != labels[:, None, None, :])
    y = (scores.softmax(dim=-1) @ v).transpose(2, 3).flatten(3).flatten(0, 2)
    expected = torch.zeros_like(y).index_copy(0, rows.flatten().long(), y)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight.double()).sum().backward()
    for mine, theirs in zip(inputs, exact, strict=True):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-4, atol=2e-5)


def test_a_factor_on_the_scores(path):
    """Is one on the queries, gradient included."""
    windows = Windows(torch.randperm(40)[None].int(), 2, 20, 20, 20, 40)
    qkv, factor = torch.randn(40, HEADS.columns, requires_grad=True), torch.tensor([[1.7]], requires_grad=True)
    out = gathered_attention(qkv, windows, HEADS, scatter=True, factor=factor)
    exact, own = qkv.detach().double().requires_grad_(), factor.detach().double().requires_grad_()
    scaled = torch.cat([exact[:, :15] * own, exact[:, 15:]], dim=1)
    expected = plain_attention(scaled, windows, HEADS, None, scatter=True)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5)
    out.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(qkv.grad.double(), exact.grad, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(factor.grad.double(), own.grad, rtol=1e-3, atol=1e-4)


def test_sums_do_not_depend_on_the_number_of_threads(path):
    rows = torch.randint(0, 60, (2, 80), dtype=torch.int32) + torch.tensor([[0], [60]], dtype=torch.int32)
    windows = Windows(rows, 4, 20, 20, 20, 80)
    values = torch.randn(120, HEADS.columns)  # made once: PyTorch's own functions may depend on the threads
    results = []
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        qkv = values.clone().requires_grad_()
        out = gathered_attention(qkv, windows, HEADS)
        out.square().sum().backward()
        results.append((out.detach(), qkv.grad))
    if path == "kernel":
        for out, grad in results[1:]:
            assert torch.equal(out, results[0][0])
            assert torch.equal(grad, results[0][1])
    torch.testing.assert_close(results[1], results[0])


def test_without_a_compiler_the_plain_path_serves(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    module.kernel_library.cache_clear()
    try:
        assert module.kernel_library(5, 6) is None
    finally:
        module.kernel_library.cache_clear()


def test_a_compiler_that_fails_leaves_no_library(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "SOURCE", tmp_path / "broken.cpp")
    (tmp_path / "broken.cpp").write_text("this is no C++")
    module.kernel_library.cache_clear()
    try:
        assert module.kernel_library(5, 6) is None
    finally:
        module.kernel_library.cache_clear()
    assert list(tmp_path.glob("basicsr/*.so")) == []
