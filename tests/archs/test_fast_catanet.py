"""The inference form gives the outputs of the network it was made from."""

import copy

import pytest
import torch

from basicsr.archs import build_network, fast_catanet

SMALL = {
    "type": "CATANet", "dim": 16, "block_num": 3, "qk_dim": 12, "mlp_dim": 24, "heads": 2, "patch_size": [5, 16, 20],
    "num_tokens": [4, 8, 24], "group_size": [64, 32, 16], "n_iters": [1, 2, 3],
}  # fmt: skip


def trained(spec):
    """A network whose every parameter matters and whose centres are set, as after training."""
    net = build_network(spec)
    net.train()(torch.rand(1, 3, 31, 37))
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return net.eval()


@pytest.fixture(params=["kernel and fused calls", "public calls"])
def path(request, monkeypatch):
    if request.param == "public calls":
        monkeypatch.setattr(fast_catanet, "_fused", lambda x: False)
        monkeypatch.setenv("BASICSR_KERNELS", "0")
    return request.param


@pytest.mark.parametrize("upscale", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (14, 3), (33, 47), (70, 20)])
def test_equal_to_the_network(path, upscale, size):
    net = trained({**SMALL, "upscale": upscale})
    x = torch.rand(2, 3, *size)
    with torch.inference_mode():
        expected, found = net(x), net.prepared()(x)
    assert found.shape == (2, 3, size[0] * upscale, size[1] * upscale)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("upscale", [1, 2, 3, 4])
def test_direct_tail_is_equal_to_the_network(path, upscale):
    net = trained({**SMALL, "upscale": upscale, "tail": "direct"})
    x = torch.rand(2, 3, 70, 20)  # several strips
    with torch.inference_mode():
        torch.testing.assert_close(net.prepared()(x), net(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (33, 47)])
def test_equal_before_training_too(path, size):
    net = build_network({**SMALL, "upscale": 2}).eval()
    x = torch.rand(2, 3, *size)
    with torch.inference_mode():
        torch.testing.assert_close(net.prepared()(x), net(x), rtol=0, atol=1e-5)


def test_presets_in_float64_by_public_calls(monkeypatch):
    """Where float32 noise could flip a choice of group, float64 shows that the forms are the same function."""
    monkeypatch.setattr(fast_catanet, "_fused", lambda x: False)
    net = trained({"type": "CATANet-L", "upscale": 4}).double()
    x = torch.rand(1, 3, 40, 52, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(net.prepared(torch.float64)(x), net(x), rtol=0, atol=1e-9)


def test_strips_leave_no_seam(monkeypatch):
    net = trained({**SMALL, "upscale": 4})
    x = torch.rand(1, 3, 20, 17)
    with torch.inference_mode():
        whole = net.prepared()(x)
        monkeypatch.setattr(fast_catanet, "STRIP_ROWS", 3)
        torch.testing.assert_close(net.prepared()(x), whole, rtol=0, atol=1e-6)


def test_the_network_is_left_as_it_was():
    net = trained({**SMALL, "upscale": 2}).train()
    before, grads = copy.deepcopy(net.state_dict()), [p.requires_grad for p in net.parameters()]
    net.prepared(torch.bfloat16)(torch.rand(1, 3, 9, 9))
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert net.training
    assert [p.requires_grad for p in net.parameters()] == grads


def test_bfloat16_is_close(shared):
    from basicsr.engine.checkpoint import load_weights
    from basicsr.images.files import read_image, to_tensor
    from basicsr.metrics.psnr_ssim import calculate_psnr_pt

    net = build_network({"type": "CATANet-L", "upscale": 4}).eval()
    load_weights(net, shared / "checkpoints" / "CATANet_L_x4_AID.pth")
    lq, gt = (
        to_tensor(read_image(shared / "data" / "Set5" / path))[None]
        for path in ("LR_bicubic/X4/butterflyx4.png", "HR/butterfly.png")
    )
    with torch.inference_mode():
        psnr = [
            float(calculate_psnr_pt(net.prepared(dtype)(lq), gt, crop_border=4, test_y_channel=True))
            for dtype in (torch.float32, torch.bfloat16)
        ]
    assert psnr[0] == pytest.approx(28.0755, abs=0.002)
    assert psnr[1] == pytest.approx(psnr[0], abs=0.02)
    assert psnr[1] != psnr[0]
