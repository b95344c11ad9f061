"""The checks of this folder on the CPU, so that their code is tested where there is no GPU."""

from contextlib import contextmanager

import pytest
import torch
from archs.registered import NAMES, has_tiny_sizes, scales
from gpu.agreement import compute, count_group_choices, gradient_difference, largest_difference, psnr, trained_network
from gpu.cutting import check_search_and_cut
from gpu.fake_device import forward_on_fake_cuda, update_on_fake_cuda
from gpu.scaling import check_overflow_halves_scale, check_scale_growth_and_resume
from gpu.steps import warmed_up_step
from gpu.tiles import build_model_on, check_validation_in_tiles
from gpu.training import (
    KINDS,
    TOTAL,
    assert_continued,
    catanet,
    losses,
    resumed_and_uninterrupted,
    state,
    train_across_devices,
    train_in_this_process,
    with_device,
)
from reference import catanet_literal
from reference.atd_literal import LiteralATD, LiteralATDUNet

from basicsr.archs import fast_catanet
from basicsr.engine.optimizer_groups import arguments_on

SMALL = [name for name in NAMES if has_tiny_sizes(name)]
LEARNING = [name for name in SMALL if name != "Bicubic"]
OPTIMIZERS = {"Adam": {"lr": 1e-3}, "AdamW": {"lr": 1e-3}, "MUON": {"lr": [1e-3, 1e-3]}}
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="plans of the fake device would stay cached")


class Calls(torch.nn.Module):
    """A module that calls a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Flag:
    """A buffer of one bool that is read without a synchronization."""

    def __init__(self, value):
        self.value = value

    def __bool__(self):
        return self.value

    def fill_(self, value):
        self.value = value


class TestAgreement:
    """Float32 against float64, which differ by rounding as two devices do."""

    @pytest.mark.parametrize("train", [False, True])
    @pytest.mark.parametrize("name", SMALL)
    def test_with_the_same_groups(self, name, train):
        net = trained_network(name)
        here = compute(net, "cpu", train=train)
        there = compute(net, "cpu", torch.float64, here.groups, train=train)
        assert len(here.groups) == len(there.groups) >= count_group_choices(net)
        assert largest_difference(here, there) < 1e-5 and gradient_difference(here, there) < 1e-5

    def test_the_prepared_form(self, monkeypatch):
        net = trained_network("CATANet")
        here = compute(net, "cpu", prepared=True)
        monkeypatch.setattr(fast_catanet, "_fused", lambda x: False)
        there = compute(net, "cpu", torch.float64, here.groups, prepared=True)
        assert len(here.groups) == len(there.groups) == count_group_choices(net) > 0
        assert largest_difference(here, there) < 1e-5

    def test_other_groups_give_other_outputs(self):
        net = trained_network("ATD")
        here = compute(net, "cpu")
        there = compute(net, "cpu", forced=[groups.flip(1) for groups in here.groups])
        assert largest_difference(here, there) > 1e-3
        assert 10 < psnr(here, there) < 60 < psnr(here, compute(net, "cpu", torch.float64))


@without_gpu
@pytest.mark.skipif(torch.__version__ < (2, 10), reason="CUDA builds of older PyTorch ask the driver for a fake device")
class TestFakeDevice:
    @pytest.mark.parametrize("train", [False, True])
    @pytest.mark.parametrize("name", LEARNING)
    def test_a_forward_pass_neither_waits_nor_copies(self, name, train, monkeypatch):
        monkeypatch.setenv("BASICSR_KERNELS", "0")
        net, scale = trained_network(name).train(train), scales(name)[0]
        assert forward_on_fake_cuda(net, 1, 3, 13, 19) == ("cuda", (1, 3, 13 * scale, 19 * scale), [])

    def test_the_prepared_form_neither_waits_nor_copies(self, monkeypatch):
        monkeypatch.setenv("BASICSR_KERNELS", "0")
        assert forward_on_fake_cuda(trained_network("CATANet").prepared(), 1, 3, 13, 19) == ("cuda", (1, 3, 26, 38), [])

    @pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    def test_clipping_and_optimizer_neither_wait_nor_copy(self, optimizer):
        built_by_models = arguments_on(torch.device("cuda"), {"type": optimizer})
        for more in ({}, built_by_models):
            assert update_on_fake_cuda(optimizer, **OPTIMIZERS[optimizer], **more)[0] == []

    @pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
    def test_the_moving_average_neither_waits_nor_copies(self):
        assert update_on_fake_cuda("Adam", lr=1e-3)[1] == []

    @pytest.mark.parametrize(
        ("function", "copies"),
        [
            (lambda x: x * torch.tensor([1.0, 2.0], device=x.device), ["aten._to_copy.default"]),
            (lambda x: x * torch.ones(2).to(x), ["aten._to_copy.default"]),
            (lambda x: x[..., [1, 0]], ["aten._to_copy.default"]),
            (lambda x: x[..., torch.tensor([1, 0])], ["aten.index.Tensor"]),
            (lambda x: x * torch.tensor(2.0), []),  # a scalar on the CPU is passed with the call
            (lambda x: x * torch.arange(2, device=x.device), []),
        ],
    )
    def test_copies_are_detected(self, function, copies):
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
    def test_synchronizations_are_detected(self, function):
        with pytest.raises(RuntimeError):
            forward_on_fake_cuda(Calls(function), 1, 2)

    @pytest.mark.parametrize("train", [False, True])
    def test_the_reference_networks_run_on_any_device(self, train):
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
    """In this process; `tests/reliability` tests the commands in processes of their own."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_resumed_run_ends_like_one_that_never_stopped(self, kind, tmp_path):
        resumed, uninterrupted = resumed_and_uninterrupted(
            tmp_path, with_device("cpu", KINDS[kind](tmp_path)), train_in_this_process
        )
        assert resumed == uninterrupted

    def test_checkpoints_move(self, tmp_path):
        values = catanet(tmp_path)
        uninterrupted = train_in_this_process(tmp_path / "uninterrupted", with_device("cpu", values))
        assert_continued(
            train_across_devices(tmp_path / "moved", values, train_in_this_process, "cpu", "cpu"),
            uninterrupted,
        )

    def test_a_reset_optimizer_is_detected(self, tmp_path):
        values = with_device("cpu", catanet(tmp_path))
        uninterrupted = train_in_this_process(tmp_path / "uninterrupted", values)
        run = train_in_this_process(tmp_path / "reset", values, "--force_yml", f"train:total_iter={TOTAL // 2}")
        content = state(run, TOTAL // 2)
        for learned in content["optimizers"][0]["state"].values():
            for value in learned.values():
                value.zero_()
        torch.save(content, run.experiment / f"training_states/{TOTAL // 2}.state")
        run = train_in_this_process(tmp_path / "reset", values, "--auto_resume")
        with pytest.raises(AssertionError):
            assert_continued(run, uninterrupted)

    def test_bfloat16_trains_close_to_float32(self, tmp_path):
        values = with_device("cpu", catanet(tmp_path))
        plain = train_in_this_process(tmp_path / "float32", values)
        half = train_in_this_process(tmp_path / "bfloat16", {**values, "train": {**values["train"], "amp": "bf16"}})
        assert losses(half) == pytest.approx(losses(plain), rel=0.05) and losses(half) != losses(plain)

    def test_the_scale_grows_and_is_resumed(self, tmp_path):
        check_scale_growth_and_resume(tmp_path, "cpu")

    def test_a_step_that_overflows_is_skipped(self, tmp_path):
        check_overflow_halves_scale(tmp_path, "cpu")

    @pytest.mark.parametrize(("kind", "recipe"), [("catanet", "plain"), ("atd", "bfloat16"), ("atd_unet", "AdamW")])
    def test_a_step_after_a_warm_up(self, kind, recipe, tmp_path):
        step = warmed_up_step(tmp_path, kind, recipe, "cpu")
        before = [parameter.detach().clone() for parameter in step().net_g.parameters()]
        after = list(step().net_g.parameters())
        assert not all(torch.equal(one, other) for one, other in zip(before, after, strict=True))

    def test_a_search_is_cut_and_checked(self, tmp_path):
        check_search_and_cut(tmp_path, "cpu", train_in_this_process)


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
    check_validation_in_tiles(build_model_on(tmp_path, "cpu"), memory_for(100 * 100), caplog)
