"""Every registered network takes every size (thin, tiny, odd, prime, long) or names the smallest one that it takes."""

import sys

import pytest
import torch
from archs.registered import NAMES, scale_key
from hypothesis import given
from hypothesis import strategies as st
from reliability.mutations import FULL

from basicsr.config.registry import ARCH_REGISTRY

NETWORKS = [name for name in NAMES if isinstance(ARCH_REGISTRY.get(name), type)]
PRESETS = [name for name in NAMES if name not in NETWORKS]
SIZES = [(1, 1), (1, 2), (2, 1), (1, 50), (50, 1), (2, 3), (3, 2), (5, 7), (3, 257), (17, 15), (65, 33)]
LARGE = [(257, 3), (16, 16), (31, 33), (64, 64), (1, 1000), (1, 5000), (5000, 1), (2, 4099), (256, 255), (511, 64)]


def make(name, upscale=None, **more):
    """Build a network at its file's sizes for tests; a forward pass in training mode sets its token centres."""
    build = ARCH_REGISTRY.get(name)
    module = sys.modules[build.__module__]
    sizes = module.TINY if isinstance(build, type) else {}
    upscale = upscale or getattr(module, "SCALES", (2, 3, 4))[0]
    net = build(**{scale_key(name): upscale}, **sizes, **more)
    with torch.no_grad():
        net.train()(torch.rand(1, 3, 16, 16))
    return net.eval()


def check(net, height, width, batch=1):
    lq = torch.rand(batch, 3, height, width)
    with torch.no_grad():
        if min(height, width) < net.min_side:
            with pytest.raises(ValueError, match=str(net.min_side)):
                net(lq)
            return
        sr = net(lq)
    assert sr.shape == (batch, 3, height * net.upscale, width * net.upscale)
    assert sr.isfinite().all()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network(name):
    scales = getattr(sys.modules[ARCH_REGISTRY.get(name).__module__], "SCALES", (2, 3, 4))
    for upscale in scales if FULL else scales[-1:]:
        net = make(name, upscale)
        for height, width in SIZES + (LARGE if FULL else []):
            check(net, height, width)
        check(net, 9, 14, batch=3)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset(name):
    net = make(name)
    for height, width in SIZES if FULL else [(1, 1), (5, 7)]:
        check(net, height, width)


@pytest.mark.parametrize("name", NETWORKS)
def test_in_training(name):
    net = make(name).train()
    for height, width in SIZES[:8]:
        if min(height, width) >= net.min_side:
            sr = net(torch.rand(2, 3, height, width))
            assert sr.isfinite().all()
            if sr.requires_grad:
                sr.mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_in_the_form_for_inference(name):
    net = make(name)
    if not callable(getattr(net, "prepared", None)):
        pytest.skip("has no form for inference")
    prepared = net.prepared(torch.float32)
    for height, width in SIZES:
        if min(height, width) >= net.min_side:
            lq = torch.rand(1, 3, height, width)
            with torch.no_grad():
                torch.testing.assert_close(prepared(lq), net(lq), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_any_size(name):
    net = make(name)

    @given(st.integers(1, 70), st.integers(1, 70))
    def run(height, width):
        check(net, height, width)

    run()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(1, 3, 0, 8), (1, 3, 8, 0), (1, 3, 0, 0)])
def test_an_image_without_pixels_is_an_error(name, shape):
    net = make(name)
    with torch.no_grad(), pytest.raises((ValueError, RuntimeError)):
        net(torch.rand(shape))
