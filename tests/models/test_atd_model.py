"""Models of the ATD family: stages, mixed precision, averages, and every published option file from end to end."""

import copy
import dataclasses
import logging
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import run_here

import basicsr.test
import basicsr.train
from basicsr.archs import build_network
from basicsr.config.load import load_options, resolve
from basicsr.engine.checkpoint import load_file
from basicsr.errors import CheckpointError, OptionError
from basicsr.images.files import write_image
from basicsr.models import build_model
from basicsr.models.atd_model import ATDUNetModel

pytestmark = pytest.mark.filterwarnings("ignore:Unable to enable fault handler")  # stderr is captured
ROOT = Path(__file__).parents[2]
LOGGER = logging.getLogger("basicsr")
UNET = {
    "embed_dim": 4, "depths": [1, 1], "num_heads": [1, 2], "window_size": [4, 4], "dim_ffn_td": [2, 3],
    "category_size": [24, 16], "num_tokens": [8, 6], "reducted_dim": [3, 4], "convffn_kernel_size": 3,
    "mlp_ratio": 1.5,
}  # fmt: skip
ATD = {
    "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 2], "window_size": 4, "category_size": 16, "num_tokens": 6,
    "reducted_dim": 3, "convffn_kernel_size": 3,
}  # fmt: skip
STAGES = {
    "batch_size_per_gpu": 4, "gt_size": 12, "iters": [3, 5], "mini_batch_sizes": [4, 2], "gt_sizes": [5, 12],
}  # fmt: skip


@pytest.fixture
def options(tmp_path):
    def options(data=(), network=(), path=(), is_train=True, **train):
        values = {
            "name": "x",
            "model_type": "ATDUNetModel",
            "scale": 1,
            "num_gpu": 0,
            "manual_seed": 3,
            "network_g": {"type": "ATDUNet", "in_chans": 3, **UNET, **dict(network)},
            "path": {"experiments_root": str(tmp_path / "experiments"), **dict(path)},
            "datasets": {
                key: {"type": "Dataset_GaussianDenoising", "dataroot_gt": "unused", **dict(data)}
                for key in ("train", "val")
            },
            "train": {
                "total_iter": 20,
                "pixel_opt": {"type": "CharbonnierLoss", "eps": 1e-3},
                "optim_g": {"type": "MUON", "lr": [1e-3, 2e-4], "weight_decay": 0.01, "betas": [0.9, 0.95]},
                **train,
            },
        }
        file = tmp_path / "x.yml"
        file.write_text(yaml.safe_dump(values))
        return resolve(load_options(file, is_train=is_train))

    return options


@pytest.fixture
def messages(caplog, monkeypatch):
    """What is logged, from now on."""
    monkeypatch.setattr(LOGGER, "handlers", [])
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level(logging.INFO, "basicsr")
    return lambda: [record.message for record in caplog.records]


def batch(seed, count=2, side=9):
    generator = torch.Generator().manual_seed(seed)
    lq, gt = (torch.rand(count, 3, side, side, generator=generator) for _ in range(2))
    return {"lq": lq, "gt": gt, "lq_path": ["a"] * count}


def steps(model, first, last):
    for it in range(first, last + 1):
        model.update_learning_rate(it)
        model.feed_data(batch(it))
        model.optimize_parameters(it)


def weights_of(model):
    return copy.deepcopy(model.net_g.state_dict())


def numbered_pixels(count=4, side=12):
    """A batch in which every number tells its sample, row and column; `lq` is half a unit above `gt`."""
    gt = torch.arange(count * side * side, dtype=torch.float32).view(count, 1, side, side).repeat(1, 3, 1, 1)
    return {"lq": gt + 0.5, "gt": gt, "lq_path": [f"{k}.png" for k in range(count)], "index": torch.arange(count)}


class TestStages:
    def place(self, part, side=12):
        """Samples, top and left of a part of `numbered_pixels`, having checked that all of it is one crop."""
        gt = part["gt"]
        sample, rest = np.divmod(gt[:, 0, 0, 0].long().numpy(), side * side)
        (top,), (left,) = (set(numbers.tolist()) for numbers in np.divmod(rest, side))  # one place for all samples
        height, width = gt.shape[2:]
        whole = numbered_pixels()["gt"][sample]
        torch.testing.assert_close(gt, whole[:, :, top : top + height, left : left + width], rtol=0, atol=0)
        torch.testing.assert_close(part["lq"], gt + 0.5, rtol=0, atol=0)
        assert part["lq_path"] == [f"{k}.png" for k in sample]
        assert part["index"].tolist() == sample.tolist()
        return tuple(sample.tolist()), top, left

    def test_sizes(self, options):
        model = build_model(options(STAGES))
        model.feed_data(numbered_pixels())
        shapes = [tuple(model.stage_batch(it)["lq"].shape) for it in (1, 3, 4, 8, 9, 1000)]
        assert shapes == [(4, 3, 5, 5)] * 2 + [(2, 3, 12, 12)] * 4

    def test_one_crop_of_all_and_every_choice_comes(self, options):
        model = build_model(options({**STAGES, "iters": [500, 500]}))
        model.feed_data(numbered_pixels())
        first = {self.place(model.stage_batch(it)) for it in range(1, 501)}
        assert first == {((0, 1, 2, 3), top, left) for top in range(8) for left in range(8)}
        second = {self.place(model.stage_batch(it)) for it in range(501, 601)}
        assert second == {((a, b), 0, 0) for a in range(4) for b in range(a + 1, 4)}

    def test_choices_follow_from_seed_process_and_iteration(self, options):
        opt = options({**STAGES, "mini_batch_sizes": [2, 2]})

        def places(**changes):
            model = build_model(dataclasses.replace(opt, **changes))
            model.feed_data(numbered_pixels())
            torch.rand(3), np.random.rand(3)  # what else is drawn has no say
            return [self.place(model.stage_batch(it)) for it in (1, 2, 3)]

        assert places() == places()
        assert len({tuple(found) for found in (places(), places(rank=1), places(manual_seed=4))}) == 3
        assert len(set(places())) == 3

    def test_a_step_trains_on_the_part(self, options, monkeypatch):
        model = build_model(options({**STAGES, "mini_batch_sizes": [2, 1]}, accum_iter=2))
        seen = []
        monkeypatch.setattr(
            model,
            "compute_losses",
            lambda part: seen.append(part) or {"l_pix": sum(p.sum() for p in model.net_g.parameters())},
        )
        model.feed_data(numbered_pixels(count=8))
        model.optimize_parameters(1)
        assert [part["lq"].shape for part in seen] == [(2, 3, 5, 5)] * 2
        assert [path for part in seen for path in part["lq_path"]] == model.stage_batch(1)["lq_path"]
        assert model.batch["lq"].shape == (8, 3, 12, 12)

    def test_stages_are_announced_once(self, options, messages):
        model = build_model(options(STAGES))
        model.feed_data(numbered_pixels())
        for it in range(1, 10):
            model.stage_batch(it)
        assert messages()[-2:] == ["Stage 1 of 2: 4 crops of 5 px a step", "Stage 2 of 2: 2 crops of 12 px a step"]

    def test_without_stages_batches_are_taken_as_they_come(self, options):
        model = build_model(options())
        model.feed_data(numbered_pixels())
        assert model.stage_batch(1) is model.batch

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ({"gt_sizes": None}, "gt_sizes: needs one number for each stage, like iters and mini_batch_sizes and"),
            ({"iters": [3]}, "mini_batch_sizes: needs one number for each stage"),
            ({"iters": [3, 0]}, "iters[1]: must be in [1, 1e9], got 0"),
            ({"mini_batch_sizes": [5, 2]}, "mini_batch_sizes: must not exceed batch_size_per_gpu (4), got [5, 2]"),
            ({"gt_sizes": [5, 13]}, "gt_sizes: must not exceed gt_size (12), got [5, 13]"),
            ({"gt_size": None}, "gt_sizes: must not exceed gt_size (0), got [5, 12]"),
        ],
    )
    def test_stages_that_do_not_fit_are_named(self, options, data, message):
        with pytest.raises(OptionError) as error:
            build_model(options({**STAGES, **data}))
        assert f"datasets.train.{message}" in str(error.value)


class TestMixedPrecision:
    def test_on_the_cpu_fp16_is_bf16_and_one_line_says_so(self, options, messages):
        dtypes = []
        models = [build_model(options(**train)) for train in ({"use_fp16": True}, {"amp": "bf16"})]
        line = "float16 training needs CUDA; on cpu it is bfloat16, without a scaler"
        assert messages().count(line) == 1
        models[1].net_g.load_state_dict(models[0].net_g.state_dict())
        for model in models:
            model.net_g.conv_last.register_forward_hook(lambda *args: dtypes.append(args[-1].dtype))
            steps(model, 1, 2)
        assert set(dtypes) == {torch.bfloat16}
        assert {p.dtype for p in models[0].net_g.parameters()} == {torch.float32}
        torch.testing.assert_close(weights_of(models[0]), weights_of(models[1]), rtol=0, atol=0)

    def test_without_it_all_is_float32_and_no_state_is_kept(self, options, tmp_path):
        model = build_model(options())
        dtypes = []
        model.net_g.conv_last.register_forward_hook(lambda *args: dtypes.append(args[-1].dtype))
        steps(model, 1, 1)
        model.save(0, 1)
        assert dtypes == [torch.float32]
        assert load_file(tmp_path / "experiments/x/training_states/1.state")["scaler"] == {}

    @pytest.fixture
    def scaled(self, options, monkeypatch):
        """Models as on CUDA, with a scaler; but computing in float32, so that they equal those without one."""

        def scaled(**train):
            model = build_model(options(use_fp16=True, **train))
            model.training_step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
            monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: torch.enable_grad())
            return model

        return scaled

    def test_gradients_are_unscaled_before_they_are_clipped(self, options, scaled):
        plain, model = build_model(options(use_grad_clip=True)), scaled(use_grad_clip=True)
        model.net_g.load_state_dict(plain.net_g.state_dict())
        steps(plain, 1, 3)
        steps(model, 1, 3)
        assert model.training_step.scaler.get_scale() == 2.0**13
        torch.testing.assert_close(model.training_step.grad_norms, plain.training_step.grad_norms, rtol=1e-5, atol=0)
        torch.testing.assert_close(weights_of(model), weights_of(plain), rtol=0, atol=1e-6)

    def test_a_step_that_overflows_is_left_out_and_the_scale_halved(self, scaled):
        model = scaled(grad_clip=0.5)
        before = weights_of(model)
        model.after_backward = lambda it: None
        model.feed_data(batch(1))
        handle = model.net_g.conv_last.weight.register_hook(lambda grad: grad * float("inf"))
        model.optimize_parameters(1)
        handle.remove()
        torch.testing.assert_close(weights_of(model), before, rtol=0, atol=0)
        assert model.training_step.scaler.get_scale() == 2.0**11
        steps(model, 2, 2)
        assert not torch.equal(model.net_g.conv_last.weight, before["conv_last.weight"])

    def test_the_scale_is_saved_and_taken_up_again(self, scaled, tmp_path):
        model = scaled()
        steps(model, 1, 3)
        model.save(0, 3)
        folder = tmp_path / "experiments" / "x"
        state, weights = load_file(folder / "training_states/3.state"), load_file(folder / "models/net_g_3.pth")
        again = scaled()
        again.resume_training(state, weights, "net_g_3.pth")
        scaler = again.training_step.scaler
        assert scaler.state_dict() == model.training_step.scaler.state_dict() == state["scaler"]
        assert scaler.get_scale() == 2.0**13 and scaler._get_growth_tracker() == 1
        steps(model, 4, 5)
        steps(again, 4, 5)
        torch.testing.assert_close(weights_of(again), weights_of(model), rtol=0, atol=0)

    def test_an_optimizer_without_gradients_waits(self, scaled):
        model = scaled(use_grad_clip=True)
        model.setup_optimizer([torch.nn.Parameter(torch.ones(2))], {"type": "SGD", "lr": 1.0})
        steps(model, 1, 2)
        (idle,) = model.optimizers[1].param_groups[0]["params"]
        assert idle.tolist() == [1, 1]

    @pytest.mark.gpu
    def test_on_cuda_it_is_float16_with_a_scaler(self, options):
        model = build_model(dataclasses.replace(options(use_fp16=True), num_gpu=1))
        dtypes = []
        model.net_g.conv_last.register_forward_hook(lambda *args: dtypes.append(args[-1].dtype))
        steps(model, 1, 2)
        assert dtypes == [torch.float16] * 2 and model.training_step.scaler.is_enabled()


@pytest.mark.parametrize(
    ("train", "norm"), [({"use_grad_clip": True}, 0.01), ({"use_grad_clip": True, "grad_clip": 1e-3}, 1e-3)]
)
def test_gradients_are_clipped_over_both_groups(options, train, norm):
    model = build_model(options(**train))
    steps(model, 1, 1)
    assert model.training_step.grad_norms[0] > norm
    clipped = torch.stack([p.grad.norm() for p in model.net_g.parameters()]).norm()
    assert clipped == pytest.approx(norm, rel=1e-3)


class TestAverages:
    @pytest.fixture
    def files(self, options, tmp_path):
        """Weight files with an average that is not the weights, and without one."""
        model = build_model(options(ema_decay=0.5))
        steps(model, 1, 2)
        model.save(0, 2)
        folder = tmp_path / "experiments/x/models"
        content = load_file(folder / "net_g_2.pth")
        torch.save({"params": content["params"]}, folder / "bare.pth")
        return content, folder

    def test_finetuning_goes_on_from_both(self, options, files):
        content, folder = files
        model = build_model(options(ema_decay=0.9, path={"pretrain_network_g": str(folder / "net_g_2.pth")}))
        torch.testing.assert_close(weights_of(model), content["params"], rtol=0, atol=0)
        torch.testing.assert_close(dict(model.ema.module.state_dict()), content["params_ema"], rtol=0, atol=0)
        before = content["params_ema"]["conv_first.weight"]
        steps(model, 1, 1)
        expected = before.lerp(model.net_g.conv_first.weight.detach(), 0.1)
        torch.testing.assert_close(model.ema.module.conv_first.weight, expected)

    def test_a_file_without_an_average_starts_it_from_its_weights(self, options, files):
        content, folder = files
        model = build_model(options(ema_decay=0.9, path={"pretrain_network_g": str(folder / "bare.pth")}))
        torch.testing.assert_close(dict(model.ema.module.state_dict()), content["params"], rtol=0, atol=0)

    def test_without_strict_loading_what_fits_goes_into_both(self, options, files):
        content, folder = files
        path = {"pretrain_network_g": str(folder / "net_g_2.pth")}
        with pytest.raises(CheckpointError):
            build_model(options({"in_ch": 1}, ema_decay=0.9, network={"in_chans": 1}, path=path))
        path["strict_load_g"] = False
        model = build_model(options({"in_ch": 1}, ema_decay=0.9, network={"in_chans": 1}, path=path))
        for net, key in ((model.net_g, "params"), (model.ema.module, "params_ema")):
            assert net.conv_first.weight.shape[1] == 1
            torch.testing.assert_close(net.middle_blks.block.td, content[key]["middle_blks.block.td"])
        torch.testing.assert_close(model.ema.module.conv_first.weight, model.net_g.conv_first.weight)


def test_what_is_scored_is_clamped(options, monkeypatch):
    opt = options(is_train=False)
    opt = dataclasses.replace(
        opt,
        val=dataclasses.replace(
            opt.val,
            metrics={
                "psnr": {"type": "calculate_psnr_pt", "crop_border": 0},
            },
        ),
    )
    model = build_model(opt)
    monkeypatch.setattr(model.net_g, "forward", lambda x: 3 * x - 1)
    lq = torch.rand(1, 3, 13, 11)
    gt = (3 * lq - 1).clamp(0, 1) + 0.1
    scores = model.validation([{"lq": lq, "gt": gt, "lq_path": ["a.png"], "gt_path": ["a.png"]}])
    assert scores.per_image["a"]["psnr"] == pytest.approx(20, abs=1e-4)


# From end to end.


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Folder of colour images, 40 to 43 pixels a side. Do not write to it."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for k in range(2):
        small = rng.integers(0, 256, (8, 8, 3), np.uint8).repeat(6, 0).repeat(6, 1)
        write_image(folder / f"{k}.png", np.ascontiguousarray(small[: 40 + k, : 43 - 2 * k]))
    return folder


@pytest.fixture(scope="module")
def lq_images(images, tmp_path_factory):
    """scale -> folder of their low-resolution partners, of the same names."""
    from basicsr.images.files import read_image
    from basicsr.images.matlab_resize import imresize

    folders = {}
    for scale in (2, 3, 4):
        folders[scale] = tmp_path_factory.mktemp(f"x{scale}")
        for path in images.iterdir():
            image = read_image(path)
            height, width = (side - side % scale for side in image.shape[:2])
            write_image(folders[scale] / path.name, imresize(image[:height, :width], 1 / scale))
    return folders


def run(command, folder, path, overrides, *flags):
    """Return the exit code of a command that runs in this process, in `folder`."""
    return run_here(command, folder, "-opt", path, *flags, "--force_yml", *overrides)


def miniature(path, images, lq_images):
    """Overrides that make of a published option file two iterations of a tiny network on tiny images."""
    values = yaml.safe_load(path.read_text())
    scale, is_unet = values["scale"], values["model_type"] == "ATDUNetModel"
    made = ["num_gpu=0"]
    network = {**UNET} if is_unet else {**ATD, "dim_ffn_td": 2}
    made += [f"network_g:{key}={value}" for key, value in network.items()]
    for key, data in values["datasets"].items():
        made.append(f"datasets:{key}:dataroot_gt={images}")
        if "dataroot_lq" in data and not is_unet:
            made.append(f"datasets:{key}:dataroot_lq={lq_images[scale]}")
    if "train" in values["datasets"]:
        loading = {
            "gt_size": 12 if is_unet else 6 * scale,
            "batch_size_per_gpu": 2,
            "num_worker_per_gpu": 0,
            "dataset_enlarge_ratio": 4,
            "pin_memory": False,
        }
        made += [f"datasets:train:{key}={value}" for key, value in loading.items()]
        made += ["train:total_iter=2", "train:warmup_iter=-1", "train:scheduler:milestones=[1]"]
        made += ["logger:print_freq=1", "logger:use_tb_logger=false"]
        if is_unet:
            made += [f"datasets:train:{key}" for key in ("iters=[1,1]", "mini_batch_sizes=[2,1]", "gt_sizes=[8,12]")]
    return made


def published(kind, folder, prefix):
    return sorted((ROOT / "options" / kind / folder).glob(f"{prefix}*.yml"))


def train_and_keep(folder, path, images, lq_images, *overrides):
    """Train by an option file, as above, and put the weights where its test file looks for them."""
    assert run(basicsr.train, folder, path, [*miniature(path, images, lq_images), *overrides]) == 0
    (folder / "experiments/pretrained_models").mkdir(parents=True, exist_ok=True)
    latest = folder / "experiments" / path.stem / "models/net_g_latest.pth"
    shutil.copy(latest, folder / "experiments/pretrained_models" / f"{path.stem}.pth")
    return load_file(latest)


def scores_of_test(folder, path, images, lq_images):
    """What its test file prints: data set -> mean scores."""
    assert run(basicsr.test, folder, path, miniature(path, images, lq_images)) == 0
    scores = yaml.safe_load((folder / "results" / path.stem / "scores.json").read_text())
    values = yaml.safe_load(path.read_text())["datasets"].values()
    assert list(scores) == [data["name"] for data in values]
    pictures = folder / "results" / path.stem / "visualization"
    assert len(list(pictures.rglob(f"*_{path.stem}.png"))) == 2 * len(scores)
    return {name: found["mean"] for name, found in scores.items()}


def plain(value):
    """Nested containers and tensors as dicts and lists of numbers, to compare."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    value = value.tolist() if isinstance(value, torch.Tensor) else value
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def log_of(folder, name):
    return "".join(path.read_text() for path in sorted((folder / "experiments" / name).glob("train_*.log")))


class TestPublishedFiles:
    @pytest.mark.parametrize(
        ("prefix", "count"), [pytest.param("0", 4, marks=pytest.mark.slow), ("1", 3)], ids=["classical", "light"]
    )
    def test_super_resolution_stage_by_stage(self, prefix, count, tmp_path, images, lq_images):
        """Each starts from what the one before it left, where that left it."""
        found = {}
        for path in published("train", "sr", prefix):
            found[path.stem] = train_and_keep(tmp_path, path, images, lq_images)
            assert {"params", "params_ema"} < found[path.stem].keys()
            assert "l_pix" in log_of(tmp_path, path.stem)
        assert len(found) == count
        for path in published("test", "sr", prefix):
            for scores in scores_of_test(tmp_path, path, images, lq_images).values():
                assert scores.keys() == {"psnr", "psnr_float", "ssim", "ssim_float"} and scores["psnr"] > 5

    @pytest.mark.parametrize(
        "path",
        published("train", "denoising", "[23]0") + published("train", "jpegcar", "4"),
        ids=lambda path: path.stem,
    )
    def test_restoration(self, path, tmp_path, images, lq_images):
        weights = train_and_keep(tmp_path, path, images, lq_images)
        assert ("params_ema" in weights) == path.stem.startswith("4")
        log = log_of(tmp_path, path.stem)
        muon = "8.000e-04" if path.stem.startswith("4") else "1.000e-03"
        half = "4.000e-04" if path.stem.startswith("4") else "5.000e-04"
        assert re.findall(r"lr:\(([^)]*),\)", log) == [f"{muon},2.000e-04", f"{half},1.000e-04"]
        assert "Stage 1 of 2: 2 crops of 8 px" in log and "Stage 2 of 2: 1 crops of 12 px" in log
        test = ROOT / "options/test" / path.parent.name / path.name
        scores = scores_of_test(tmp_path, test, images, lq_images)
        names = {"2": ["CBSD68", "Kodak24", "McMaster"], "3": ["Set12", "BSD68"], "4": ["Classic5", "LIVE1"]}
        assert list(scores) == [*names[path.stem[0]], "Urban100"]
        assert all(found["psnr"] > 5 for found in scores.values())

    def test_all_of_them_are_run_above(self):
        for kind, counts in (
            ("train", {"sr": 7, "denoising": 6, "jpegcar": 4}),
            ("test", {"sr": 6, "denoising": 6, "jpegcar": 4}),
        ):
            for folder, count in counts.items():
                assert len(published(kind, folder, "[0-4][0-9]")) == count

    def test_the_test_files_name_the_networks_of_the_training_files(self):
        for path in (ROOT / "options/test").glob("*/[0-9][0-9][0-9]_*.yml"):
            test, train = (
                yaml.safe_load((ROOT / "options" / kind / path.parent.name / path.name).read_text())["network_g"]
                for kind in ("test", "train")
            )
            assert {**test, "use_checkpoint": True} == train

    def test_a_test_file_is_found_without_its_folder(self, tmp_path, images, lq_images):
        path = ROOT / "options/train/denoising/301_ATD_U_denoising_gray_sigma15.yml"
        train_and_keep(tmp_path, path, images, lq_images)
        test = ROOT / "options/test/denoising" / path.name
        assert run(basicsr.test, tmp_path, ROOT / "options/test" / path.name, miniature(test, images, lq_images)) == 0

    @pytest.mark.parametrize(
        ("prefix", "counts"),
        [("0", {2: 20_113_217, 3: 20_297_857, 4: 20_260_929}), ("1", {2: 753_204, 3: 759_699, 4: 768_792})],
        ids=["classical", "light"],
    )
    @pytest.mark.parametrize("kind", ["train", "test"])
    def test_the_overrides_in_the_comments_give_the_network_of_2024(self, kind, prefix, counts):
        for path in published(kind, "sr", prefix):
            comment = re.search(r"# +--force_yml ((?:.*\\\n#)*.*)", path.read_text())[1]
            opt = load_options(path, shlex.split(comment.replace("\\\n#", " ")), is_train=kind == "train")
            with torch.device("meta"):
                net = build_network(opt.network_g)
            assert sum(p.numel() for p in net.parameters()) == counts[opt.scale]
            if kind == "train":
                data = opt.datasets["train"]
                assert data["filename_tmpl"] == f"{{}}x{opt.scale}" and "_sub" not in data["dataroot_lq"]
                assert opt.train.mixed_precision is None and opt.train.total_iter >= 250_000


def test_stopping_and_going_on_changes_nothing(tmp_path, images, lq_images):
    """MUON, its averages, the stages and the EMA, through the commands: bit for bit."""
    (path,) = published("train", "jpegcar", "402")
    replaced = ("datasets:train:iters=", "train:scheduler:milestones=", "train:total_iter=")
    overrides = [text for text in miniature(path, images, lq_images) if not text.startswith(replaced)]
    overrides += ["datasets:train:iters=[3,2]", "train:scheduler:milestones=[2,3]"]
    for folder, ends in (("straight", [5]), ("stopped", [2, 5])):
        (tmp_path / folder).mkdir()
        for total in ends:
            more = [*overrides, f"train:total_iter={total}"]
            assert run(basicsr.train, tmp_path / folder, path, more, "--auto_resume") == 0
    files = [f"experiments/{path.stem}/{name}" for name in ("models/net_g_5.pth", "training_states/5.state")]
    for file in files:
        straight, stopped = (load_file(tmp_path / folder / file) for folder in ("straight", "stopped"))
        assert plain(stopped) == plain(straight)
    (optimizer,) = straight["optimizers"]
    assert "momentum_buffer" in optimizer["state"][0]
    assert any("exp_avg" in state for state in optimizer["state"].values())
    assert "Resuming training" in log_of(tmp_path / "stopped", path.stem)


PUBLISHED = """\
name: 401_like
model_type: ATDUNetModel
scale: 1
num_gpu: 4
manual_seed: 0
datasets:
  train:
    name: DFWB
    type: Dataset_JPEGCAR
    dataroot_gt: datasets/DFWB
    dataroot_lq: none
    filename_tmpl: '{}'
    io_backend:
      type: disk
    in_ch: 1
    quality_factor: 10
    gt_size: 384
    geometric_augs: true
    use_hflip: true
    use_rot: true
    num_worker_per_gpu: 6
    batch_size_per_gpu: 6
    dataset_enlarge_ratio: 100
    prefetch_mode: ~
    pin_memory: true
    persistent_workers: true
    mini_batch_sizes: [6, 3]
    iters: [60000, 40000]
    gt_sizes: [256, 384]
  val_1:
    name: Set12
    type: Dataset_GaussianDenoising
    dataroot_gt: datasets/GrayDN/Set12
    dataroot_lq: none
    io_backend:
      type: disk
    sigma_type: constant
    sigma_range: 15
    sigma_test: 15
    in_ch: 1
network_g:
  type: ATDUNet
  upscale: 1
  in_chans: 1
  embed_dim: 48
  depths: [6, 8, 8, 6]
  num_heads: [1, 2, 4, 8]
  window_size: [16, 8, 8, 8]
  dim_ffn_td: [6, 12, 12, 12]
  category_size: [128, 128, 128, 128]
  num_tokens: [128, 128, 128, 128]
  reducted_dim: [6, 12, 24, 24]
  convffn_kernel_size: 5
  img_range: 1.
  mlp_ratio: 2.66
  bias: false
  use_checkpoint: true
path:
  pretrain_network_g: ~
  strict_load_g: true
  param_key_g: params_ema
  resume_state: ~
train:
  use_fp16: true
  ema_decay: 0.999
  optim_g:
    type: MUON
    lr: [8e-4, 2e-4]
    weight_decay: 0.01
    betas: [0.9, 0.95]
  scheduler:
    type: MultiStepLR
    milestones: [50000, 70000, 90000]
    gamma: 0.5
  total_iter: 100000
  warmup_iter: -1
  pixel_opt:
    type: CharbonnierLoss
    loss_weight: 1.0
    reduction: mean
    eps: !!float 1e-3
  use_grad_clip: true
  mixing_augs:
    mixup: true
    mixup_beta: 1.2
    use_identity: true
val:
  val_freq: !!float 5e3
  save_img: false
  suffix: ~
  metrics:
    psnr:
      type: calculate_psnr
      crop_border: 0
      test_y_channel: false
logger:
  print_freq: 100
  save_checkpoint_freq: !!float 5e3
  use_tb_logger: true
  wandb:
    project: ~
    resume_id: ~
dist_params:
  backend: nccl
  port: 29500
"""


def test_every_key_of_the_published_files_is_known(tmp_path, images, lq_images, messages):
    path = tmp_path / "401_like.yml"
    path.write_text(PUBLISHED)
    opt = load_options(path, is_train=True)
    assert [line for line in messages() if "unknown option" in line] == []
    assert len([line for line in messages() if "train.mixing_augs: MixUp is not applied" in line]) == 1
    assert (opt.train.mixed_precision, opt.train.max_grad_norm, opt.path.param_key_g) == ("fp16", 0.01, "params_ema")
    assert opt.train.losses["pixel_opt"]["eps"] == 1e-3
    assert run(basicsr.train, tmp_path, path, miniature(path, images, lq_images)) == 0
    assert "l_pix" in log_of(tmp_path, "401_like")


def test_progressive_training_is_of_this_model_alone(options):
    assert isinstance(build_model(options(STAGES)), ATDUNetModel)
    assert not hasattr(build_model(dataclasses.replace(options(STAGES), model_type="ATDModel")), "stages")
