"""Training with a discriminator: the gradients, who learns when, checkpoints, going on, several processes."""

from pathlib import Path

import pytest
import torch
import yaml
from helpers import resolved_options, run_here, run_python, write_options
from reliability.runs import merged, options, write_images
from torch.nn import functional as F

import basicsr.train
from basicsr.config.load import load_options
from basicsr.engine.checkpoint import load_file
from basicsr.errors import OptionError
from basicsr.models import build_model

GENERATOR = {"type": "SRVGGNetCompact", "num_feat": 6, "num_conv": 1, "upscale": 2}
GAN = {
    "model_type": "SRGANModel",
    "network_g": GENERATOR,
    "network_d": {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4},
    "train": {
        "gan_opt": {"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 0.1},
        "optim_d": {"type": "Adam", "lr": 1e-3},
        "ema_decay": 0.9,
    },
}


def gan_options(folder, **changes):
    values = options(folder, **merged(merged({}, GAN), changes))
    values["network_g"] = changes.get("network_g", GENERATOR)  # not merged with the default of another network
    return values


@pytest.fixture
def model(tmp_path):
    def model(**changes):
        torch.manual_seed(0)
        return build_model(resolved_options(tmp_path, gan_options(tmp_path, **changes)))

    return model


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    lq, gt = (torch.rand(2, 3, side, side, generator=generator) for side in (8, 16))
    return {"lq": lq, "gt": gt, "gt_path": ["a", "b"]}


def scores(net_d, images):
    """Scores without a step of the power iteration."""
    net_d.eval()
    return net_d(images)


def gradients(net):
    return {name: p.grad for name, p in net.named_parameters()}


@pytest.mark.parametrize("model_type", ["SRGANModel", "ESRGANModel"])
def test_gradients_are_those_of_two_separate_objectives(model, model_type):
    gan = model(model_type=model_type)
    gan.net_d.eval()  # no power iterations, so that forward passes can be repeated
    gan.iteration = 1
    losses = gan.compute_losses(batch())
    sum(losses.values()).backward()
    found_g, found_d = gradients(gan.net_g), gradients(gan.net_d)
    gan.net_g.zero_grad(), gan.net_d.zero_grad()

    lq, gt = batch()["lq"], batch()["gt"]
    output = gan.net_g(lq)
    real, fake = gan.net_d(gt), gan.net_d(output)
    if model_type == "SRGANModel":
        l_gan = F.softplus(-fake).mean()
    else:
        l_gan = (F.softplus(-(fake - real.detach().mean())).mean() + F.softplus(real.detach() - fake.mean()).mean()) / 2
    expected = {"l_g_pix": (output - gt).abs().mean(), "l_g_gan": 0.1 * l_gan}
    expected_g = torch.autograd.grad(sum(expected.values()), list(gan.net_g.parameters()))

    real, fake = gan.net_d(gt), gan.net_d(output.detach())
    if model_type == "SRGANModel":
        expected |= {"l_d_real": F.softplus(-real).mean(), "l_d_fake": F.softplus(fake).mean()}
    else:
        expected |= {
            "l_d_real": F.softplus(-(real - fake.mean())).mean() / 2,
            "l_d_fake": F.softplus(fake - real.mean()).mean() / 2,
        }
    expected_d = torch.autograd.grad(expected["l_d_real"] + expected["l_d_fake"], list(gan.net_d.parameters()))
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name])
    torch.testing.assert_close(list(found_g.values()), list(expected_g))
    torch.testing.assert_close(list(found_d.values()), list(expected_d))


def test_who_learns_when(model):
    gan = model(train={"net_d_iters": 2, "net_d_init_iters": 3})
    for it in range(1, 7):
        before = {label: [p.clone() for p in getattr(gan, label).parameters()] for label in ("net_g", "net_d")}
        gan.feed_data(batch(it))
        gan.optimize_parameters(it)
        learned = {
            label: not all(map(torch.equal, old, getattr(gan, label).parameters())) for label, old in before.items()
        }
        assert learned == {"net_g": it in (4, 6), "net_d": True}
        assert ("l_g_gan" in gan.get_current_log()) is (it in (4, 6))
    assert all(p.requires_grad for p in gan.net_d.parameters())


def test_a_discriminator_tells_noise_from_pictures(model):
    """It learns: after some steps real images have higher scores than the outputs of a generator that stands still."""
    gan = model(train={"net_d_init_iters": 1000, "optim_d": {"type": "Adam", "lr": 1e-2}})
    data = batch() | {"gt": torch.zeros(2, 3, 16, 16)}
    for it in range(1, 21):
        gan.feed_data(data)
        gan.optimize_parameters(it)
    with torch.no_grad():
        assert scores(gan.net_d, data["gt"]).mean() > scores(gan.net_d, gan.net_g(data["lq"])).mean() + 0.5


def train(folder, values, *more):
    assert run_here(basicsr.train, folder, "-opt", write_options(folder, values), *more) == 0
    models = folder / "experiments" / values["name"] / "models"
    return {path.name: load_file(path) for path in models.glob("*.pth")}


@pytest.mark.parametrize("model_type", ["SRGANModel", "ESRGANModel"])
def test_going_on_ends_bit_for_bit_the_same(model_type, tmp_path):
    values = gan_options(tmp_path, model_type=model_type, logger={"save_checkpoint_freq": 3, "keep_checkpoints": 1})
    whole = train(tmp_path, {**values, "name": "whole"})
    assert {"net_g_6.pth", "net_d_6.pth", "net_d_latest.pth"} <= set(whole)
    assert "net_d_3.pth" not in whole and "net_g_3.pth" not in whole
    assert whole["net_d_6.pth"]["network_g"]["type"] == "UNetDiscriminatorSN"
    half = {**values, "name": "half", "train": {**values["train"], "total_iter": 3}}
    train(tmp_path, half)
    again = train(tmp_path, {**values, "name": "half"}, "--auto_resume")
    for name in ("net_g_6.pth", "net_d_6.pth"):
        for key in ("params", "params_ema") if name.startswith("net_g") else ("params",):
            torch.testing.assert_close(again[name][key], whole[name][key], rtol=0, atol=0)


def test_pretrained_discriminators_are_loaded(model, tmp_path):
    first = model()
    torch.save({"params": first.net_d.state_dict()}, tmp_path / "d.pth")
    torch.manual_seed(9)
    options = gan_options(tmp_path, path={"pretrain_network_d": str(tmp_path / "d.pth")})
    again = build_model(resolved_options(tmp_path, options))
    torch.testing.assert_close(again.net_d.state_dict(), first.net_d.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network_d": None}, r"network_d: is missing"),
        ({"train": {"gan_opt": None}}, r"train\.gan_opt: is missing"),
        ({"train": {"optim_d": None}}, r"train\.optim_d: is missing"),
        ({"train": {"net_d_iters": 0}}, r"train\.net_d_iters: must be in .*, got 0"),
        ({"model_type": "SRModel"}, r"train\.gan_opt: SRModel has no discriminator"),
        ({"train": {"gan_opt": {"type": "GANLoss", "gan_type": "ragan"}}}, r"gan_type: .*ragan"),
    ],
)
def test_what_is_missing_is_named(change, message, tmp_path):
    values = gan_options(tmp_path, **{k: v for k, v in change.items() if v is not None})
    values = {k: v for k, v in values.items() if change.get(k, v) is not None}
    values["train"] = {k: v for k, v in values["train"].items() if v is not None}
    with pytest.raises(OptionError, match=message):
        build_model(resolved_options(tmp_path, values))


@pytest.mark.slow
def test_two_processes_learn_as_one_with_the_double_batch(tmp_path):
    write_images(tmp_path / "images")
    found = []
    for processes, size in ((1, 4), (2, 2)):
        values = gan_options(tmp_path, datasets={"train": {"batch_size_per_gpu": size, "dataset_enlarge_ratio": 4}})
        values["name"] = f"by{processes}"
        path = write_options(tmp_path, values)
        more = ["--launcher", "pytorch"] if processes > 1 else []
        script = Path(basicsr.train.__file__)
        done = run_python(script, "-opt", path, *more, processes=processes if more else 0, cwd=tmp_path, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        models = tmp_path / "experiments" / values["name"] / "models"
        found.append([load_file(models / f"{label}_6.pth")["params"] for label in ("net_g", "net_d")])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-4)


def test_option_files_may_leave_the_losses_of_pixels_out(tmp_path):
    values = gan_options(tmp_path)
    del values["train"]["pixel_opt"]
    (tmp_path / "run.yml").write_text(yaml.safe_dump(values))
    assert load_options(tmp_path / "run.yml", is_train=True).train.losses == {}
