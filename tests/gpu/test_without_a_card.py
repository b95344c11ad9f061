"""What the tests of this folder do on a card, done on the CPU, so that their own code is known to run."""

from contextlib import contextmanager

import pytest
import torch
from archs.registered import NAMES, has_tiny_sizes, scales
from gpu.agreement import answer, choices, gradient_difference, largest_difference, psnr, trained
from gpu.cutting import search_is_cut_and_checked
from gpu.fake_device import forward_on_fake_cuda, update_on_fake_cuda
from gpu.scaling import overflow_halves_the_scale, scale_grows_and_is_resumed
from gpu.steps import warm_step
from gpu.tiles import ends_in_tiles, model_on
from gpu.training import (
    KINDS,
    TOTAL,
    assert_went_on,
    catanet,
    losses,
    moved,
    on,
    resumed_and_straight,
    state,
    train_here,
)
from reference import catanet_literal
from reference.atd_literal import LiteralATD, LiteralATDUNet

from basicsr.archs import fast_catanet
from basicsr.engine.optimizer_groups import arguments_on

SMALL = [name for name in NAMES if has_tiny_sizes(name)]
LEARNING = [name for name in SMALL if name != "Bicubic"]
OPTIMIZERS = {"Adam": {"lr": 1e-3}, "AdamW": {"lr": 1e-3}, "MUON": {"lr": [1e-3, 1e-3]}}
no_card = pytest.mark.skipif(torch.cuda.is_available(), reason="plans of a device that is not there would be kept")


class Calls(torch.nn.Module):
    """A function as a network."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Flag:
    """A buffer of one bool that is read without waiting for a device."""

    def __init__(self, value):
        self.value = value

    def __bool__(self):
        return self.value

    def fill_(self, value):
        self.value = value


class TestAgreement:
    """Float32 against float64, which differ as two devices do."""

    @pytest.mark.parametrize("train", [False, True])
    @pytest.mark.parametrize("name", SMALL)
    def test_with_the_same_groups(self, name, train):
        net = trained(name)
        here = answer(net, "cpu", train=train)
        there = answer(net, "cpu", torch.float64, here.groups, train=train)
        assert len(here.groups) == len(there.groups) >= choices(net)
        assert largest_difference(here, there) < 1e-5 and gradient_difference(here, there) < 1e-5

    def test_the_prepared_form(self, monkeypatch):
        net = trained("CATANet")
        here = answer(net, "cpu", prepared=True)
        monkeypatch.setattr(fast_catanet, "_fused", lambda x: False)
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
    @pytest.mark.parametrize("name", LEARNING)
    def test_a_forward_neither_waits_for_the_gpu_nor_copies_to_it(self, name, train, monkeypatch):
        monkeypatch.setenv("BASICSR_KERNELS", "0")
        net, scale = trained(name).train(train), scales(name)[0]
        assert forward_on_fake_cuda(net, 1, 3, 13, 19) == ("cuda", (1, 3, 13 * scale, 19 * scale), [])

    def test_nor_does_the_prepared_form(self, monkeypatch):
        monkeypatch.setenv("BASICSR_KERNELS", "0")
        assert forward_on_fake_cuda(trained("CATANet").prepared(), 1, 3, 13, 19) == ("cuda", (1, 3, 26, 38), [])

    @pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    def test_nor_do_clipping_and_optimizer(self, optimizer):
        built_by_models = arguments_on(torch.device("cuda"), {"type": optimizer})
        for more in ({}, built_by_models):
            assert update_on_fake_cuda(optimizer, **OPTIMIZERS[optimizer], **more)[0] == []

    @pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
    def test_nor_does_the_moving_average(self):
        assert update_on_fake_cuda("Adam", lr=1e-3)[1] == []

    @pytest.mark.parametrize(
        ("function", "copies"),
        [
            (lambda x: x * torch.tensor([1.0, 2.0], device=x.device), ["aten._to_copy.default"]),
            (lambda x: x * torch.ones(2).to(x), ["aten._to_copy.default"]),
            (lambda x: x[..., [1, 0]], ["aten._to_copy.default"]),
            (lambda x: x[..., torch.tensor([1, 0])], ["aten.index.Tensor"]),
            (lambda x: x * torch.tensor(2.0), []),  # a number of the CPU travels with the call
            (lambda x: x * torch.arange(2, device=x.device), []),
        ],
    )
    def test_copies_are_found(self, function, copies):
        assert forward_on_fake_cuda(Calls(function), 1, 2).copies == copies

    @pytest.mark.parametrize(
        "function",
        [
            lambda x: x if x.sum() > 0 else -x,
            lambda x: x * x.amax().item(),
            lambda x: x[x > 0],
            lambda x: x.flatten().nonzero(),
            lambda x: x + torch.ones(x.shape),  # a second device
        ],
    )
    def test_waits_are_found(self, function):
        with pytest.raises(RuntimeError):
            forward_on_fake_cuda(Calls(function), 1, 2)

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
            assert forward_on_fake_cuda(net, 1, 3, 13, 19).device == "cuda"
        assert forward_on_fake_cuda(LiteralATDUNet(**unet).train(train), 1, 1, 13, 19).device == "cuda"


class TestTraining:
    """In this process, for the commands that start others are tested in `tests/reliability`."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_resumed_run_ends_like_one_that_never_stopped(self, kind, tmp_path):
        resumed, straight = resumed_and_straight(tmp_path, on("cpu", KINDS[kind](tmp_path)), train_here)
        assert resumed == straight

    def test_checkpoints_move(self, tmp_path):
        values = catanet(tmp_path)
        straight = train_here(tmp_path / "straight", on("cpu", values))
        assert_went_on(moved(tmp_path / "moved", values, train_here, "cpu", "cpu"), straight)

    def test_an_optimizer_that_began_anew_is_found(self, tmp_path):
        values = on("cpu", catanet(tmp_path))
        straight = train_here(tmp_path / "straight", values)
        run = train_here(tmp_path / "anew", values, "--force_yml", f"train:total_iter={TOTAL // 2}")
        content = state(run, TOTAL // 2)
        for learned in content["optimizers"][0]["state"].values():
            for value in learned.values():
                value.zero_()
        torch.save(content, run.experiment / f"training_states/{TOTAL // 2}.state")
        run = train_here(tmp_path / "anew", values, "--auto_resume")
        with pytest.raises(AssertionError):
            assert_went_on(run, straight)

    def test_bfloat16_trains_close_to_float32(self, tmp_path):
        values = on("cpu", catanet(tmp_path))
        plain = train_here(tmp_path / "float32", values)
        half = train_here(tmp_path / "bfloat16", {**values, "train": {**values["train"], "amp": "bf16"}})
        assert losses(half) == pytest.approx(losses(plain), rel=0.05) and losses(half) != losses(plain)

    def test_the_scale_grows_and_is_resumed(self, tmp_path):
        scale_grows_and_is_resumed(tmp_path, "cpu")

    def test_a_step_that_overflows_is_left_out(self, tmp_path):
        overflow_halves_the_scale(tmp_path, "cpu")

    @pytest.mark.parametrize(("kind", "recipe"), [("catanet", "plain"), ("atd", "bfloat16"), ("atd_unet", "AdamW")])
    def test_a_step_after_a_warm_up(self, kind, recipe, tmp_path):
        step = warm_step(tmp_path, kind, recipe, "cpu")
        before = [parameter.detach().clone() for parameter in step().net_g.parameters()]
        after = list(step().net_g.parameters())
        assert not all(torch.equal(one, other) for one, other in zip(before, after, strict=True))

    def test_a_search_is_cut_and_checked(self, tmp_path):
        search_is_cut_and_checked(tmp_path, "cpu", train_here)


def test_validation_ends_in_tiles(tmp_path, caplog, monkeypatch):
    @contextmanager
    def memory_for(pixels):
        forward = fast_catanet.PreparedCATANet.forward

        def limited(net, x):
            if x.shape[2] * x.shape[3] > pixels:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return forward(net, x)

        with monkeypatch.context() as patch:
            patch.setattr(fast_catanet.PreparedCATANet, "forward", limited)
            yield

    monkeypatch.setattr("gpu.tiles.SIDE", 160)
    ends_in_tiles(model_on(tmp_path, "cpu"), memory_for(100 * 100), caplog)
