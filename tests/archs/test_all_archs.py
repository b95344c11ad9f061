"""The contract that every registered network keeps. A new architecture is tested without touching this file."""

import pytest
import torch
from archs.registered import NAMES, scales, tiny


@pytest.mark.parametrize(("name", "upscale"), [(name, upscale) for name in NAMES for upscale in scales(name)])
def test_shape_gradients_and_pure_evaluation(name, upscale):
    net = tiny(name, upscale)
    lq = torch.rand(2, 3, 13, 17)  # odd and not square, on purpose
    sr = net.train()(lq)
    assert sr.shape == (2, 3, 13 * upscale, 17 * upscale)
    if sr.requires_grad:
        sr.mean().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None] == []
    net.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with torch.no_grad():
        torch.testing.assert_close(net(lq), net(lq), rtol=0, atol=0)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_state_round_trip(name):
    net, again = tiny(name), tiny(name)
    lq = torch.rand(1, 3, 12, 9)
    net.train()(lq)  # sets what training sets
    again.load_state_dict(net.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(lq), net.eval()(lq), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_facts_and_smallest_input(name):
    net = tiny(name).eval()
    assert net.upscale == scales(name)[0]
    assert (net.min_side, net.multiple_of) >= (1, 1)
    with torch.no_grad():
        assert net(torch.rand(1, 3, net.min_side, net.min_side)).shape[-1] == net.upscale * net.min_side


@pytest.mark.parametrize("name", NAMES)
def test_unsupported_scale_is_refused(name):
    with pytest.raises(ValueError, match="scale"):
        tiny(name, 0)
