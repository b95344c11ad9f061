"""Training with a discriminator: the gradients, who learns when, checkpoints, going on, several processes."""

import copy
import re
from pathlib import Path

import pytest
import torch
import yaml
from helpers import resolved_options, run_here, run_python, write_options
from reliability.runs import merged, options, write_images
from torch.nn import functional as F

import basicsr.train
from basicsr.config.faults import OptionFaultsError
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
        ({"train": {"ldl_opt": {"type": "L1Loss"}}}, r"train\.ldl_opt: weighs artifacts .* remove it"),
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


def test_all_that_is_missing_is_reported_at_once_where_options_are_read(tmp_path):
    values = gan_options(tmp_path)
    del values["network_d"], values["train"]["gan_opt"], values["train"]["optim_d"]
    values["train"]["ema_decay"] = 2
    values["val"]["val_freq"] = "often"
    with pytest.raises(OptionFaultsError) as error:
        load_options(write_options(tmp_path, values), is_train=True)
    places = [re.search(r"([\w.]+): (?:is missing|must|expected)", str(fault))[1] for fault in error.value.faults]
    # What else `train` lacks is not known while one of its keys is wrong.
    assert places == ["network_d", "train.ema_decay", "val.val_freq"]
    values["train"]["ema_decay"] = 0.9
    with pytest.raises(OptionFaultsError, match="4 faults"):
        load_options(write_options(tmp_path, values), is_train=True)
    tested = {**values, "val": {}, "datasets": {"val": values["datasets"]["train"]}}
    assert load_options(write_options(tmp_path, tested), is_train=False).network_d is None  # only training needs it


def everything(gan):
    return copy.deepcopy(
        [gan.net_g.state_dict(), gan.net_d.state_dict(), gan.ema.module.state_dict()]
        + [optimizer.state_dict() for optimizer in gan.optimizers]
    )


@pytest.mark.parametrize(
    "net_d",
    [
        {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4},  # power iterations
        {"type": "VGGStyleDiscriminator", "num_in_ch": 3, "num_feat": 4, "input_size": 128},  # statistics of batches
    ],
)
@pytest.mark.parametrize("poison", ["lq", "gt", "gradient"])
def test_a_skipped_step_changes_neither_network(model, net_d, poison):
    side = net_d.get("input_size", 16)
    train = {"nan": "skip", "nan_limit": 2, "pixel_opt": None}  # so that with gt only the discriminator has bad numbers
    gan = model(network_d=net_d, train=train)
    gan.net_g.train(), gan.net_d.train()
    clean, bad = ({"lq": torch.rand(2, 3, side // 2, side // 2), "gt": torch.rand(2, 3, side, side)} for _ in "ab")
    gan.feed_data(clean)
    gan.optimize_parameters(1)
    before = everything(gan)
    if poison == "gradient":
        handle = next(gan.net_d.parameters()).register_hook(lambda grad: grad * float("inf"))
    else:
        bad[poison][0, 0, 0, 0] = float("nan")
    for it in (2, 3):
        gan.feed_data(bad)
        gan.optimize_parameters(it)
        torch.testing.assert_close(everything(gan), before, rtol=0, atol=0)
    with pytest.raises(FloatingPointError, match=r"iteration 4: .*allow more skipped steps \(train\.nan_limit\)"):
        gan.optimize_parameters(4)
    if poison == "gradient":
        handle.remove()
    gan.feed_data(clean)
    gan.optimize_parameters(5)
    for old, new in zip(before[:2], everything(gan)[:2], strict=True):
        assert any(not torch.equal(old[name], new[name]) for name in old)


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
