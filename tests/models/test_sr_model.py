"""The model without a data set: steps, EMA, rates, saving and going on, prediction."""

import copy
from dataclasses import replace

import pytest
import torch
import yaml
from fake_graphs import FakeBackend

from basicsr.config.load import load_options, resolve
from basicsr.engine.checkpoint import load_file
from basicsr.engine.compile import compile_for_all_sizes
from basicsr.engine.cuda_graphs import GraphedForward
from basicsr.engine.ema import EMA
from basicsr.engine.step import split_batch
from basicsr.images.self_ensemble import self_ensemble
from basicsr.models import build_model, sr_model

TINY = {"type": "CATANet", "upscale": 2, "dim": 16, "block_num": 2, "qk_dim": 12, "mlp_dim": 24, "heads": 2,
        "patch_size": [8, 10], "num_tokens": [4, 8], "group_size": [64, 32], "n_iters": [2, 3]}  # fmt: skip


@pytest.fixture
def options(tmp_path):
    def options(is_train=True, **train):
        values = {
            "name": "x",
            "scale": 2,
            "num_gpu": 0,
            "network_g": TINY,
            "path": {"experiments_root": str(tmp_path / "experiments")},
            "datasets": {k: {"type": "PairedImageDataset", "dataroot_gt": "unused"} for k in ("train", "val")},
            "train": {
                "total_iter": 20,
                "optim_g": {"type": "Adam", "lr": 1e-3},
                "pixel_opt": {"type": "L1Loss"},
                **train,
            },
        }
        path = tmp_path / "x.yml"
        path.write_text(yaml.safe_dump(values))
        return resolve(load_options(path, is_train=is_train))

    return options


def batch(seed, size=2):
    generator = torch.Generator().manual_seed(seed)
    lq, gt = (torch.rand(size, 3, side, side, generator=generator) for side in (12, 24))
    return {"lq": lq, "gt": gt, "lq_path": ["a"] * size}


def steps(model, first, last):
    for it in range(first, last + 1):
        model.update_learning_rate(it, 4)
        model.feed_data(batch(it))
        model.optimize_parameters(it)


def prediction(model, lq):
    with model.predictor() as predict:
        return predict(lq)


def test_the_loss_falls(options):
    model = build_model(options())
    losses = []
    for it in range(1, 21):
        model.feed_data(batch(1))
        model.optimize_parameters(it)
        losses.append(model.get_current_log()["l_pix"])
    assert losses[-1] < 0.9 * losses[0]


def test_saving_and_going_on_changes_nothing(options, tmp_path):
    extras = {"ema_decay": 0.9, "scheduler": {"type": "MultiStepLR", "milestones": [5]}}
    straight = build_model(options(**extras))
    torch.manual_seed(5)
    stopped = build_model(options(**extras))
    stopped.net_g.load_state_dict(straight.net_g.state_dict())
    stopped.ema.module.load_state_dict(straight.net_g.state_dict())
    steps(straight, 1, 8)
    steps(stopped, 1, 4)
    stopped.save(0, 4)
    random_number = torch.rand(1)

    folder = tmp_path / "experiments" / "x"
    going_on = build_model(options(**extras))
    state, weights = load_file(folder / "training_states" / "4.state"), load_file(folder / "models" / "net_g_4.pth")
    going_on.resume_training(state, weights, "net_g_4.pth")
    assert torch.equal(torch.rand(1), random_number)
    steps(going_on, 5, 8)
    for mine, theirs in ((going_on.net_g, straight.net_g), (going_on.ema.module, straight.ema.module)):
        torch.testing.assert_close(mine.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    assert weights["network_g"] == TINY
    assert weights["meta"]["iter"] == 4


def test_ema_copies_buffers_and_the_flag_that_mirrors_them(options):
    model = build_model(options(ema_decay=0.9))
    start = copy.deepcopy(model.net_g.state_dict())
    steps(model, 1, 1)
    ema, net = model.ema.module, model.net_g
    for name, value in ema.named_buffers():
        assert torch.equal(value, dict(net.named_buffers())[name])
    expected = {name: 0.9 * start[name] + 0.1 * p for name, p in net.named_parameters()}
    torch.testing.assert_close(dict(ema.named_parameters()), expected)
    lq = batch(1)["lq"]
    again = EMA(net, 0.9).module.eval()
    again.load_state_dict(ema.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ema.eval()(lq), again(lq), rtol=0, atol=0)


def test_ema_of_decay_zero_is_the_network(options):
    model = build_model(options(ema_decay=1e-9))
    steps(model, 1, 2)
    lq = batch(1)["lq"]
    with torch.no_grad():
        torch.testing.assert_close(prediction(model, lq), model.net_g.eval()(lq), rtol=0, atol=1e-5)


def test_rates_warm_up_to_the_configured_one(options):
    model = build_model(options(scheduler={"type": "MultiStepLR", "milestones": [6], "gamma": 0.1}))
    rates = []
    for it in range(1, 9):
        model.update_learning_rate(it, 4)
        rates += model.get_current_learning_rate()
    assert rates == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3, 1e-4, 1e-4])


def test_gradients_are_clipped(options):
    model = build_model(options(grad_clip=1e-3))
    steps(model, 1, 1)
    norm = torch.stack([p.grad.norm() for p in model.net_g.parameters()]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_bf16_autocast_trains_with_float32_weights(options):
    model = build_model(options(amp="bf16"))
    steps(model, 1, 3)
    assert {p.dtype for p in model.net_g.parameters()} == {torch.float32}
    assert prediction(model, batch(1)["lq"]).dtype == torch.float32


def test_a_loss_that_is_not_finite_stops_the_run_before_the_update(options):
    model = build_model(options())
    before = copy.deepcopy(dict(model.net_g.named_parameters()))
    data = batch(1)
    data["gt"][0, 0, 0, 0] = float("nan")
    model.feed_data(data)
    with pytest.raises(FloatingPointError, match=r"iteration 7: the loss is not finite \(l_pix=nan\); lower the"):
        model.optimize_parameters(7)
    assert all(torch.equal(p, before[n]) for n, p in model.net_g.named_parameters())


def test_predicting_leaves_training_as_it_was(options):
    model = build_model(options())
    steps(model, 1, 1)
    before = copy.deepcopy(model.net_g.state_dict())
    assert prediction(model, batch(2)["lq"]).shape == (2, 3, 24, 24)
    assert model.net_g.training
    torch.testing.assert_close(model.net_g.state_dict(), before, rtol=0, atol=0)


def test_self_ensemble_is_equivariant():
    weight = torch.rand(3, 3, 3, 3)

    def net(x):
        return torch.nn.functional.conv2d(x, weight, padding=1)

    x = torch.rand(1, 3, 5, 7)
    y = self_ensemble(net, x)
    assert not torch.allclose(net(x), y)
    torch.testing.assert_close(self_ensemble(net, x.flip(-1)), y.flip(-1))
    torch.testing.assert_close(self_ensemble(net, torch.rot90(x, 1, (-2, -1))), torch.rot90(y, 1, (-2, -1)))
    torch.testing.assert_close(self_ensemble(lambda x: x, x), x)


def test_a_batch_that_does_not_divide_is_refused():
    assert [len(part["lq_path"]) for part in split_batch(batch(1, size=4), 2)] == [2, 2]
    with pytest.raises(ValueError, match="accum_iter: a batch of 3 does not divide into 2 parts"):
        split_batch(batch(1, size=3), 2)


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__ < (2, 10), reason="the compiler of older PyTorch fails on these networks")
def test_compiled_network_is_not_compiled_again_for_every_size(options):
    """PyTorch's convolutions tell small maps from large ones, so there may be two graphs, but no more."""
    from torch._dynamo.utils import counters

    net = build_model(options()).net_g.eval().prepared()
    compiled = compile_for_all_sizes(net)
    counters.clear()
    with torch.inference_mode():
        for size in ((12, 12), (14, 17), (30, 11), (21, 40)):
            x = torch.rand(1, 3, *size)
            torch.testing.assert_close(compiled(x), net(x), rtol=0, atol=1e-5)
    assert counters["stats"]["unique_graphs"] <= 2


@pytest.mark.parametrize("self_ensemble", [False, True])
def test_images_of_one_size_are_predicted_by_a_graph_that_goes_at_the_end(options, monkeypatch, self_ensemble):
    model = build_model(options())
    steps(model, 1, 1)
    # Not in place: options that a file leaves out are one default, which all runs share.
    monkeypatch.setattr(model, "opt", replace(model.opt, val=replace(model.opt.val, self_ensemble=self_ensemble)))
    images = [batch(seed)["lq"] for seed in range(5)]
    with model.predictor() as predict:
        expected = [predict(lq) for lq in images]
    backend = FakeBackend()
    monkeypatch.setattr(
        sr_model, "GraphedForward", lambda run, device, **keep: GraphedForward(run, device, backend, **keep)
    )
    with model.predictor() as predict:
        found = [predict(lq) for lq in images]
        assert backend.alive == 1
    assert backend.count("replay") == 3
    assert backend.alive == 0
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
