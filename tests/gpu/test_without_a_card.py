"""What the tests of this folder do on a card, done on the CPU, so that their own code is known to run."""

import pytest
import torch
from archs.registered import NAMES, has_tiny_sizes, scales
from gpu.agreement import answer, choices, gradient_difference, largest_difference, psnr, trained
from gpu.fake_device import forward_on_fake_cuda
from reference import catanet_literal
from reference.atd_literal import LiteralATD, LiteralATDUNet

from basicsr.archs import catanet_prepared

SMALL = [name for name in NAMES if has_tiny_sizes(name)]
UNFORCED = pytest.mark.xfail(strict=True, reason="the trainable CATANet does not take forced groups yet")
WAITS = pytest.mark.xfail(strict=True, reason="the geometry of CATANet is not planned yet")
no_card = pytest.mark.skipif(torch.cuda.is_available(), reason="plans of a device that is not there would be kept")


class Flag:
    """A buffer of one bool that is read without waiting for a device."""

    def __init__(self, value):
        self.value = value

    def __bool__(self):
        return self.value

    def fill_(self, value):
        self.value = value


def marked(names, mark):
    return [pytest.param(name, marks=mark) if name.startswith("CATANet") else name for name in names]


class TestAgreement:
    """Float32 against float64, which differ as two devices do."""

    @pytest.mark.parametrize("train", [False, True])
    @pytest.mark.parametrize("name", marked(SMALL, UNFORCED))
    def test_with_the_same_groups(self, name, train):
        net = trained(name)
        here = answer(net, "cpu", train=train)
        there = answer(net, "cpu", torch.float64, here.groups, train=train)
        assert len(here.groups) == len(there.groups) >= choices(net)
        assert largest_difference(here, there) < 1e-5 and gradient_difference(here, there) < 1e-5

    def test_the_prepared_form(self, monkeypatch):
        net = trained("CATANet")
        here = answer(net, "cpu", prepared=True)
        monkeypatch.setattr(catanet_prepared, "_fused", lambda x: False)
        there = answer(net, "cpu", torch.float64, here.groups, prepared=True)
        assert len(here.groups) == len(there.groups) == choices(net) > 0
        assert largest_difference(here, there) < 1e-5

    def test_other_groups_are_other_outputs(self):
        net = trained("ATD")
        here = answer(net, "cpu")
        there = answer(net, "cpu", forced=[groups.flip(1) for groups in here.groups])
        assert largest_difference(here, there) > 1e-3
        assert 10 < psnr(here, there) < 60 < psnr(here, answer(net, "cpu", torch.float64))


@no_card
class TestFakeDevice:
    @pytest.mark.parametrize("train", [False, True])
    @pytest.mark.parametrize("name", marked(SMALL, WAITS))
    def test_a_forward_never_waits_for_the_gpu(self, name, train, monkeypatch):
        monkeypatch.setenv("BASICSR_KERNELS", "0")
        net, scale = trained(name).train(train), scales(name)[0]
        assert forward_on_fake_cuda(net, 1, 3, 13, 19) == ("cuda", (1, 3, 13 * scale, 19 * scale))

    @WAITS
    def test_nor_does_the_prepared_form(self, monkeypatch):
        monkeypatch.setenv("BASICSR_KERNELS", "0")
        assert forward_on_fake_cuda(trained("CATANet").prepared(), 1, 3, 13, 19) == ("cuda", (1, 3, 26, 38))

    def test_what_waits_is_found(self):
        class Waits(torch.nn.Module):
            def forward(self, x):
                return x if x.sum() > 0 else -x

        with pytest.raises(RuntimeError):
            forward_on_fake_cuda(Waits(), 1, 3, 4, 4)

    def test_a_second_device_is_found(self):
        class Mixes(torch.nn.Module):
            def forward(self, x):
                return x + torch.ones(x.shape)

        with pytest.raises(RuntimeError, match="device"):
            forward_on_fake_cuda(Mixes(), 1, 3, 4, 4)

    @pytest.mark.parametrize("train", [False, True])
    def test_nothing_in_the_literal_networks_is_bound_to_the_cpu(self, train):
        sizes = {"patch_size": [8], "num_tokens": [4], "group_size": [32], "n_iters": [2], "block_num": 1}
        catanet = catanet_literal.LiteralCATANet(upscale=2, **sizes)
        for module in catanet.modules():
            if isinstance(module, catanet_literal.TAB):
                module.__dict__["initted"] = Flag(not train)
        small = {"convffn_kernel_size": 3, "mlp_ratio": 1.5}
        atd = {**small, "embed_dim": 8, "depths": [2], "num_heads": [2], "window_size": 4, "category_size": 24,
               "num_tokens": 10}  # fmt: skip
        unet = {
            **small, "embed_dim": 4, "depths": [1, 2], "num_heads": [1, 2], "window_size": [4, 4], "dim_ffn_td": [2, 3],
            "category_size": [24, 16], "num_tokens": [8, 6], "reducted_dim": [3, 4],
        }  # fmt: skip
        nets = [catanet, LiteralATD(**atd, dim_ffn_td=2), LiteralATD(**atd, upsampler="pixelshuffledirect")]
        for net in nets:
            net = net.train(train)
            assert forward_on_fake_cuda(net, 1, 3, 13, 19)[0] == "cuda"
        assert forward_on_fake_cuda(LiteralATDUNet(**unet).train(train), 1, 1, 13, 19)[0] == "cuda"
