"""The commands from end to end, on real photographs with a tiny CATANet: what they write, refuse and continue."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import run_here

import basicsr.test
import basicsr.train
from basicsr.archs import build_network
from basicsr.config.registry import LOSS_REGISTRY
from basicsr.data import build_dataset
from basicsr.engine.curves import read_log
from basicsr.images.files import image_size, list_images, read_image, to_pixels, write_image
from basicsr.images.matlab_resize import imresize
from basicsr.images.self_ensemble import self_ensemble
from basicsr.metrics.psnr_ssim import calculate_psnr

pytestmark = pytest.mark.filterwarnings("ignore:Unable to enable fault handler")  # stderr is captured
PACKAGE = Path(basicsr.train.__file__).parent
TINY = {"type": "CATANet", "upscale": 2, "dim": 16, "block_num": 2, "qk_dim": 12, "mlp_dim": 24, "heads": 2,
        "patch_size": [8, 10], "num_tokens": [4, 8], "group_size": [64, 32], "n_iters": [2, 3]}  # fmt: skip
PSNR = {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": True}
NAMES = ["astronaut", "chelsea", "coffee", "motorcycle_left", "rocket"]
MODELS = "experiments/tiny/models"
STATES = "experiments/tiny/training_states"
STEP = re.compile(
    r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO: \[tiny\.\.\]\[epoch:[ \d]{2}\d, iter:[ \d,]{7}\d, "
    r"lr:\(\d\.\d{3}e-\d\d,\)\] \[eta: \d:\d\d:\d\d, time \(data\): \d+\.\d{3} \(\d+\.\d{3}\)\] "
    r"l_pix: \d\.\d{4}e-\d\d$"
)


@pytest.fixture(scope="module")
def windows(photos, tmp_path_factory):
    """Folder of windows of the photographs, small enough for many runs, of odd sizes. Do not write to it."""
    folder = tmp_path_factory.mktemp("windows")
    for k, name in enumerate(list_images(photos)):
        write_image(folder / name, np.ascontiguousarray(read_image(photos / name)[40 : 77 + k, 30 : 75 - k]))
    return folder


@pytest.fixture(scope="module")
def options(windows):
    """A training run on `windows`, LR made on the fly; two iterations are an epoch."""

    def options(**train):
        photographs = {"name": "Photos", "type": "PairedImageDataset", "dataroot_gt": str(windows)}
        return {
            "name": "tiny", "scale": 2, "num_gpu": 0, "manual_seed": 3,
            "datasets": {"train": {**photographs, "gt_size": 24, "batch_size_per_gpu": 2}, "val": photographs.copy()},
            "network_g": TINY,
            "train": {"total_iter": 4, "optim_g": {"type": "Adam", "lr": 1e-3}, "pixel_opt": {"type": "L1Loss"},
                      **train},
            "val": {"val_freq": 2, "metrics": {"psnr": PSNR}},
            "logger": {"print_freq": 1, "save_checkpoint_freq": 3},
        }  # fmt: skip

    return options


@pytest.fixture
def test_options(trained, windows):
    """A test run of what `trained` left."""
    return {
        "name": "tested", "scale": 2, "num_gpu": 0, "network_g": TINY,
        "datasets": {"test_1": {"name": "Photos", "type": "PairedImageDataset", "dataroot_gt": str(windows)}},
        "path": {"pretrain_network_g": str(trained / MODELS / "net_g_latest.pth")},
        "val": {"metrics": {"psnr": PSNR}},
    }  # fmt: skip


def write_options(folder, options):
    path = folder / f"{options['name']}.yml"
    path.write_text("# a comment\n" + yaml.safe_dump(options, sort_keys=False))
    return path


def call(command, folder, options, *flags):
    """Return the exit code of a command that runs in this process, in `folder`."""
    return run_here(command, folder, "-opt", write_options(folder, options).name, *flags)


def spawn(command, folder, options, processes=None):
    """A command in processes of its own: `python basicsr/<command>.py`, under torchrun where `processes` says so."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes else []
    argv = [sys.executable, *torchrun, str(PACKAGE / f"{command}.py"), "-opt", write_options(folder, options).name]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


def files(folder):
    """Names of all files below `folder`, with their times replaced."""
    return {
        re.sub(r"\d{8}_\d{6}", "TIME", path.relative_to(folder).as_posix())
        for path in folder.rglob("*")
        if path.is_file()
    }


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def load(path):
    return torch.load(path, weights_only=True)


def log_of(folder):
    (path,) = folder.glob("*.log")
    return path.read_text()


def plain(value):
    """Nested containers and tensors as dicts and lists of numbers, to compare."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    value = value.tolist() if isinstance(value, torch.Tensor) else value
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def assert_same_run(folder, other, it):
    """Weights, averages, optimizer, random numbers and best scores after iteration `it` are equal, bit for bit."""
    for file in (f"{MODELS}/net_g_{it}.pth", f"{MODELS}/net_g_latest.pth", f"{STATES}/{it}.state"):
        a, b = load(folder / file), load(other / file)
        assert a.keys() == b.keys()
        for key in a.keys() - {"meta", "options"}:  # which hold the name, and who loaded the samples
            assert plain(a[key]) == plain(b[key]), f"{file}: {key}"


@pytest.fixture(scope="module")
def trained(options, tmp_path_factory):
    """Folder in which four iterations with everything on were run. Do not write to it."""
    folder = tmp_path_factory.mktemp("trained")
    run = options(ema_decay=0.5)
    run["val"]["save_img"] = run["logger"]["use_tb_logger"] = True
    assert call(basicsr.train, folder, run) == 0
    return folder


class TestTraining:
    def test_files(self, trained):
        weights = {f"models/net_g_{it}.pth" for it in (3, 4, "latest")}
        states = {f"training_states/{it}.state" for it in (3, 4)}
        images = {f"visualization/{name}/{name}_{it}.png" for name in NAMES for it in (2, 4)}
        other = {"curves.png", "finished", "tiny.yml", "train_tiny_TIME.log"}
        assert files(trained / "experiments" / "tiny") == weights | states | images | other
        assert {path.name for path in trained.iterdir()} == {"experiments", "tb_logger", "tiny.yml"}

    def test_weights(self, trained):
        last, latest = (load(trained / MODELS / f"net_g_{it}.pth") for it in (4, "latest"))
        assert set(last) == {"params", "params_ema", "network_g", "meta"}
        assert last["network_g"] == TINY
        assert last["meta"]["iter"] == 4
        assert plain(latest["params"]) == plain(last["params"])
        for key in ("params", "params_ema"):
            build_network(last["network_g"]).load_state_dict(last[key])
        assert not torch.equal(last["params"]["last_conv.weight"], last["params_ema"]["last_conv.weight"])
        state = load(trained / STATES / "4.state")
        assert (state["epoch"], state["iter"], len(state["optimizers"]), state["schedulers"]) == (1, 4, 1, [])

    def test_images_are_twice_the_size(self, trained, windows):
        for name in NAMES:
            height, width = image_size(windows / f"{name}.png")
            path = trained / "experiments/tiny/visualization" / name / f"{name}_4.png"
            assert image_size(path) == (height // 2 * 2, width // 2 * 2)

    def test_log(self, trained):
        log = log_of(trained / "experiments" / "tiny")
        steps = [line for line in log.splitlines() if "[epoch:" in line]
        assert all(STEP.match(line) for line in steps)
        assert [re.search(r"epoch: +(\d)", line)[1] for line in steps] == ["0", "0", "1", "1"]
        assert " INFO: Model [SRModel] is created.\n" in log
        assert log.count(" INFO: Validation Photos\n\t # psnr: ") == 2
        assert re.search(r"\n\t # psnr: \d+\.\d{4}\tBest: \d+\.\d{4} @ [24] iter\n", log)

    def test_log_is_read_as_curves(self, trained):
        (path,) = (trained / "experiments" / "tiny").glob("*.log")
        series = read_log(path)
        assert {tag: list(values) for tag, values in series.items()} == {
            "losses/l_pix": [1, 2, 3, 4], "lr": [1, 2, 3, 4], "metrics/Photos/psnr": [2, 4],
        }  # fmt: skip
        curves = read_image(trained / "experiments/tiny/curves.png")
        assert curves.shape[1] == 960 and curves.std() > 10

    def test_tensorboard(self, trained):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(trained / "tb_logger" / "tiny"))
        events.Reload()
        (log,) = (trained / "experiments" / "tiny").glob("*.log")
        logged = read_log(log)
        assert set(events.Tags()["scalars"]) == {"losses/l_pix", "lr", "metrics/Photos/psnr"}
        for tag, values in logged.items():
            assert {event.step: event.value for event in events.Scalars(tag)} == pytest.approx(values, rel=1e-4)

    def test_the_option_file_is_kept_with_its_comments(self, trained):
        text = (trained / "experiments/tiny/tiny.yml").read_text()
        assert text.startswith("# GENERATE TIME: ") and "\n# CMD:\n# " in text
        assert text.endswith((trained / "tiny.yml").read_text())

    def test_without_ema_there_is_one_set_of_weights(self, options, tmp_path):
        assert call(basicsr.train, tmp_path, options(total_iter=1)) == 0
        assert "params_ema" not in load(tmp_path / MODELS / "net_g_1.pth")

    def test_an_existing_folder_is_archived(self, options, tmp_path):
        run = options(total_iter=1)
        run["logger"]["use_tb_logger"] = True
        for folder in (tmp_path / "experiments" / "tiny", tmp_path / "tb_logger" / "tiny"):
            folder.mkdir(parents=True)
            (folder / "precious").write_text("weeks of work")
        assert call(basicsr.train, tmp_path, run) == 0
        for parent in (tmp_path / "experiments", tmp_path / "tb_logger"):
            old, new = sorted(parent.iterdir(), key=lambda folder: folder.name == "tiny")
            assert re.fullmatch(r"tiny_archived_\d{8}_\d{6}", old.name)
            assert files(old) == {"precious"}
            assert new.name == "tiny" and "precious" not in files(new)

    def test_the_option_file_may_be_the_copy_in_the_old_folder(self, options, tmp_path):
        assert call(basicsr.train, tmp_path, options(total_iter=1)) == 0
        flags = ["-opt", "experiments/tiny/tiny.yml"]  # the last -opt counts
        assert call(basicsr.train, tmp_path, options(), *flags) == 0
        (archive,) = (tmp_path / "experiments").glob("tiny_archived_*")
        first, second = ((folder / "tiny.yml").read_text() for folder in (archive, archive.with_name("tiny")))
        assert second.startswith("# GENERATE TIME: ") and second.endswith(first)

    def test_debug(self, options, tmp_path):
        run = options(total_iter=9)
        run["val"]["val_freq"], run["logger"] = None, {"use_tb_logger": True}
        assert call(basicsr.train, tmp_path, run, "--debug") == 0
        folder = tmp_path / "experiments" / "debug_tiny"
        assert {path.name for path in (folder / "training_states").iterdir()} == {"8.state", "9.state"}
        (log,) = folder.glob("*.log")
        series = read_log(log)
        assert list(series["losses/l_pix"]) == list(range(1, 10))
        assert list(series["metrics/Photos/psnr"]) == [8, 9]
        assert not (tmp_path / "tb_logger").exists()

    def test_force_yml(self, options, tmp_path):
        flags = ["--force_yml", "name=other", "train:optim_g:lr=5e-4", "train:total_iter=1"]
        assert call(basicsr.train, tmp_path, options(), *flags) == 0
        assert "[other..][epoch:  0, iter:       1, lr:(5.000e-04,)]" in log_of(tmp_path / "experiments" / "other")


class TestCheck:
    @pytest.mark.parametrize("command", [basicsr.train, basicsr.test], ids=["train", "test"])
    def test_the_options_are_printed_and_nothing_is_written(self, command, options, tmp_path, capsys):
        assert call(command, tmp_path, options(), "--check", "--force_yml", "train:total_iter=7") == 0
        out, err = capsys.readouterr()
        printed = yaml.safe_load(out)
        assert (printed["name"], printed["train"]["total_iter"], printed["train"]["accum_iter"]) == ("tiny", 7, 1)
        assert printed["path"]["log"] == ("experiments" if command is basicsr.train else "results") + "/tiny"
        assert err == ""
        assert files(tmp_path) == {"tiny.yml"}

    def test_wrong_options(self, options, tmp_path, capsys):
        assert call(basicsr.train, tmp_path, options(ema_decya=0.9), "--check") == 2
        assert "train.ema_decya: unknown option; did you mean 'ema_decay'?" in capsys.readouterr().err


def misspell(options, folder):
    options["train"]["ema_decya"] = 0.9
    return "ema_decya", "train.ema_decya: unknown option; did you mean 'ema_decay'?"


def write_a_number_as_text(options, folder):
    options["logger"]["print_freq"] = "often"
    return "print_freq", "logger.print_freq: expected a whole number in [1, 1e9], got 'often'"


def lose_the_folder(options, folder):
    options["datasets"]["train"]["dataroot_gt"] = "nowhere"
    return "train", "datasets.train: nowhere: no such folder"


def lose_the_validation_folder(options, folder):
    options["datasets"]["val"]["dataroot_gt"] = "nowhere"
    return "val", "datasets.val: nowhere: no such folder"


def cut_off_images(options, folder):
    source = Path(options["datasets"]["train"]["dataroot_gt"])
    shutil.copytree(source, folder / "cut")
    for name in ("chelsea.png", "rocket.png"):
        (folder / "cut" / name).write_bytes((source / name).read_bytes()[:-100])
    options["datasets"]["train"]["dataroot_gt"] = "cut"
    return "train", (
        "datasets.train: cut: 2 of 5 images cannot be used: "
        "cut/chelsea.png: the file is cut off (no end marker); copy or download it again; "
        "cut/rocket.png: the file is cut off (no end marker); copy or download it again"
    )


def crop_more_than_there_is(options, folder):
    options["datasets"]["train"]["gt_size"] = 122
    return "train", "astronaut.png: 37x45 (height x width) is smaller than gt_size (122); leave it out or lower gt_size"


def fill_no_batch(options, folder):
    options["datasets"]["train"]["batch_size_per_gpu"] = 6
    return "train", "datasets.train: batch_size_per_gpu: an epoch has 5 samples a process, less than a batch of 6"


def want_an_absent_package(options, folder):
    options["logger"]["wandb"] = {"project": "p"}
    return "project", "logger.wandb.project: needs the package wandb; install it with `pip install basicsr[wandb]`"


MISTAKES_IN_THE_FILE = [
    misspell, write_a_number_as_text, lose_the_folder, lose_the_validation_folder, cut_off_images,
    crop_more_than_there_is, fill_no_batch, want_an_absent_package,
]  # fmt: skip


def start_from_another_network(options, folder, trained):
    options["network_g"] = {**TINY, "dim": 20}
    options["path"] = {"pretrain_network_g": str(trained / MODELS / "net_g_4.pth")}
    return f"{trained / MODELS / 'net_g_4.pth'}: does not fit CATANet: "


def start_from_nothing(options, folder, trained):
    options["path"] = {"pretrain_network_g": "none.pth"}
    return "none.pth: no such file; check the path"


def resume_from_nothing(options, folder, trained):
    options["path"] = {"resume_state": "none.state"}
    return "none.state: no such file; check the path"


def resume_from_weights(options, folder, trained):
    options["path"] = {"resume_state": str(trained / MODELS / "net_g_4.pth")}
    return f"{trained / MODELS / 'net_g_4.pth'}: is no training state; its keys are params, params_ema"


def resume_another_network(options, folder, trained):
    options["network_g"] = {**TINY, "dim": 20}
    options["path"] = {"resume_state": str(trained / STATES / "4.state")}
    return f"{trained / MODELS / 'net_g_4.pth'}: does not fit CATANet: "


MISTAKES_IN_WEIGHTS = [
    start_from_another_network, start_from_nothing, resume_from_nothing, resume_from_weights, resume_another_network,
]  # fmt: skip


@pytest.fixture
def old_run(tmp_path):
    """A folder with an experiment that must survive."""
    (tmp_path / MODELS).mkdir(parents=True)
    (tmp_path / MODELS / "net_g_9.pth").write_text("weeks of work")
    return tmp_path


class TestMistakes:
    @pytest.mark.parametrize("mistake", MISTAKES_IN_THE_FILE)
    def test_options_and_data(self, mistake, options, old_run, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "wandb", None)  # absent, whatever is installed here
        run = options()
        key, message = mistake(run, old_run)
        write_options(old_run, run)
        before = contents(old_run)
        assert call(basicsr.train, old_run, run) == 2
        (line,) = capsys.readouterr().err.splitlines()
        place, said = re.fullmatch(r"[\d-]+ [\d:,]+ CRITICAL: basicsr-train: tiny\.yml:(\d+): (.*)", line).groups()
        assert message in said
        assert (old_run / "tiny.yml").read_text().splitlines()[int(place) - 1].strip().startswith(f"{key}:")
        assert contents(old_run) == before

    @pytest.mark.parametrize("mistake", MISTAKES_IN_WEIGHTS)
    def test_weights_and_states(self, mistake, options, old_run, capsys, trained):
        run = options()
        message = mistake(run, old_run, trained)
        write_options(old_run, run)
        before = contents(old_run)
        assert call(basicsr.train, old_run, run) == 2
        err = capsys.readouterr().err
        assert f" CRITICAL: basicsr-train: {message}" in err.splitlines()[-1]
        assert "Traceback" not in err
        assert contents(old_run) == before

    def test_a_pretrained_network_that_does_not_fit_is_one_line(self, options, tmp_path, capsys, trained):
        run = options()
        start_from_another_network(run, tmp_path, trained)
        assert call(basicsr.train, tmp_path, run) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1

    def test_a_test_run_without_weights(self, test_options, tmp_path, capsys):
        del test_options["path"]["pretrain_network_g"]
        assert call(basicsr.test, tmp_path, test_options) == 2
        assert "path.pretrain_network_g: is missing; a test run needs weights" in capsys.readouterr().err
        assert files(tmp_path) == {"tested.yml"}

    def test_no_such_option_file(self, options, tmp_path, capsys):
        assert call(basicsr.train, tmp_path, options(), "-opt", "none.yml") == 2  # the last -opt counts
        (line,) = capsys.readouterr().err.splitlines()
        assert "basicsr-train: none.yml: cannot be read (No such file or directory)" in line

    def test_the_process_says_one_line_and_exits_2(self, options, tmp_path):
        done = spawn("train", tmp_path, options(total_iter="many"))
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.endswith("train.total_iter: expected a whole number in [1, 1e9], got 'many'")
        assert files(tmp_path) == {"tiny.yml"}


class TestFailures:
    def test_a_loss_that_becomes_nan_stops_the_run(self, options, tmp_path, capsys, monkeypatch):
        class FailingLoss(torch.nn.Module):
            calls = 0

            def forward(self, pred, target):
                self.calls += 1
                return (pred - target).abs().mean() * (float("nan") if self.calls == 4 else 1)

        monkeypatch.setattr(LOSS_REGISTRY, "_items", {**LOSS_REGISTRY._items, "FailingLoss": FailingLoss})
        run = options(pixel_opt={"type": "FailingLoss"}, total_iter=8)
        assert call(basicsr.train, tmp_path, run) == 1
        log = log_of(tmp_path / "experiments" / "tiny")
        message = "basicsr-train: iteration 4: the loss is not finite (l_pix=nan); lower the learning rate"
        assert message in log and message in capsys.readouterr().err
        saved = {path.name for path in (tmp_path / MODELS).iterdir()}
        assert saved == {"net_g_3.pth"}

    def test_an_absurd_learning_rate_stops_the_run(self, options, tmp_path, capsys):
        run = options(optim_g={"type": "SGD", "lr": 1000}, total_iter=8)
        run["train"]["pixel_opt"]["loss_weight"] = 1e9
        run["val"]["val_freq"] = None
        assert call(basicsr.train, tmp_path, run) == 1
        assert re.search(r"iteration \d: the loss is not finite \(l_pix=(nan|inf)\)", capsys.readouterr().err)


def six_iterations(options):
    """Three epochs, with all that has a state; the third iteration is in the middle of an epoch."""
    run = options(ema_decay=0.9, accum_iter=2, total_iter=6, warmup_iter=2,
                  scheduler={"type": "MultiStepLR", "milestones": [4]})  # fmt: skip
    run["datasets"]["train"] |= {"batch_size_per_gpu": 1, "num_worker_per_gpu": 2}
    run["val"] |= {"val_freq": 3, "metrics": {"psnr": {**PSNR, "better": "lower"}}}  # so that the first stays the best
    return run


@pytest.fixture(scope="module")
def straight(options, tmp_path_factory):
    """Folder of the six iterations run in one go. Do not write to it."""
    folder = tmp_path_factory.mktemp("straight")
    assert call(basicsr.train, folder, six_iterations(options)) == 0
    return folder


class TestResume:
    def test_stop_and_auto_resume(self, options, straight, tmp_path):
        run = six_iterations(options)
        stop = ["--auto_resume", "--force_yml", "train:total_iter=3"]  # nothing to resume yet
        assert call(basicsr.train, tmp_path, run, *stop) == 0
        assert not (tmp_path / MODELS / "net_g_6.pth").exists()
        assert call(basicsr.train, tmp_path, run, "--auto_resume") == 0
        assert_same_run(tmp_path, straight, 6)
        folder = tmp_path / "experiments" / "tiny"
        assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
        log = "".join(path.read_text() for path in sorted(folder.glob("*.log")))
        assert "Resuming training from epoch: 1, iter: 3" in log
        assert re.findall(r"iter: {7}(\d),", log) == ["1", "2", "3", "4", "5", "6"]

    def test_a_state_of_another_run_and_other_workers(self, options, straight, tmp_path):
        run = {**six_iterations(options), "path": {"resume_state": str(straight / STATES / "3.state")}}
        run["datasets"]["train"]["num_worker_per_gpu"] = 0  # the samples do not depend on who loads them
        assert call(basicsr.train, tmp_path, run) == 0
        assert not (tmp_path / MODELS / "net_g_3.pth").exists()
        assert_same_run(tmp_path, straight, 6)

    def test_a_network_may_stay_out(self, options, trained, straight, tmp_path):
        run = options(total_iter=3)
        run["path"] = {
            "resume_state": str(straight / STATES / "3.state"), "ignore_resume_networks": ["network_g"],
            "pretrain_network_g": str(trained / MODELS / "net_g_4.pth"),
        }  # fmt: skip
        assert call(basicsr.train, tmp_path, run) == 2  # many options are others
        assert call(basicsr.train, tmp_path, run, "--force_resume") == 0
        expected, found = load(trained / MODELS / "net_g_4.pth"), load(tmp_path / MODELS / "net_g_latest.pth")
        assert plain(found["params"]) == plain(expected["params"])


def scores_of(folder):
    return json.loads((folder / "results/tested/scores.json").read_text())["Photos"]


class TestTesting:
    @pytest.mark.parametrize("ensemble", [False, True], ids=["plain", "self-ensemble"])
    def test_files_images_and_scores(self, ensemble, test_options, tmp_path, windows, trained):
        test_options["val"] |= {"save_img": True, "self_ensemble": ensemble}
        assert call(basicsr.test, tmp_path, test_options) == 0
        folder = tmp_path / "results" / "tested"
        assert files(folder) == {
            "scores.json", "scores_Photos.csv", "scores.md", "tested.yml", "test_tested_TIME.log",
            *(f"visualization/Photos/{name}_tested.png" for name in NAMES),
        }  # fmt: skip
        assert {path.name for path in tmp_path.iterdir()} == {"results", "tested.yml"}

        weights = load(trained / MODELS / "net_g_latest.pth")
        net = build_network(weights["network_g"]).eval()
        net.load_state_dict(weights["params"])
        net = net.prepared()  # the form that tests run in
        data = build_dataset(test_options["datasets"]["test_1"], scale=2, phase="test", seed=0)
        scores = scores_of(tmp_path)
        assert list(scores["per_image"]) == NAMES
        for name, pair in zip(NAMES, data, strict=True):
            picture = read_image(folder / f"visualization/Photos/{name}_tested.png")
            with torch.inference_mode():
                lq = pair["lq"][None]
                np.testing.assert_array_equal(picture, to_pixels(self_ensemble(net, lq) if ensemble else net(lq)))
            gt = read_image(windows / f"{name}.png")[: picture.shape[0], : picture.shape[1]]
            psnr = calculate_psnr(picture, gt, crop_border=2, test_y_channel=True)
            assert scores["per_image"][name]["psnr"] == pytest.approx(psnr, abs=1e-9)
            assert 0 < abs(scores["per_image"][name]["psnr_float"] - psnr) < 0.2

    def test_the_tables_agree(self, test_options, tmp_path):
        assert call(basicsr.test, tmp_path, test_options) == 0
        folder, scores = tmp_path / "results" / "tested", scores_of(tmp_path)
        assert scores["protocols"] == {"psnr": "uint8, Y, crop 2", "psnr_float": "float, Y, crop 2"}
        expected = {**scores["per_image"], "mean": scores["mean"]}
        with (folder / "scores_Photos.csv").open(newline="") as file:
            rows = {row.pop("image"): {key: float(value) for key, value in row.items()} for row in csv.DictReader(file)}
        assert rows == expected
        table = (folder / "scores.md").read_text()
        assert table.startswith("# tested\n\n| Photos | psnr (uint8, Y, crop 2) | psnr_float (float, Y, crop 2) |\n")
        mean = f"| **mean** | {scores['mean']['psnr']:.4f} | {scores['mean']['psnr_float']:.4f} |"
        assert mean in table and mean in log_of(folder)
        assert not (folder / "visualization" / "Photos").exists()

    def test_images_made_beforehand_score_like_those_made_on_the_fly(self, test_options, tmp_path, windows):
        for name in list_images(windows):
            gt = read_image(windows / name)
            gt = gt[: gt.shape[0] // 2 * 2, : gt.shape[1] // 2 * 2]
            write_image(tmp_path / "lr" / name.replace(".png", "x2.png"), imresize(gt, 0.5))
        made = {**test_options["datasets"]["test_1"], "name": "Made", "dataroot_lq": "lr", "filename_tmpl": "{}x2"}
        test_options["datasets"]["test_2"] = made
        assert call(basicsr.test, tmp_path, test_options) == 0
        both = json.loads((tmp_path / "results/tested/scores.json").read_text())
        assert list(both) == ["Photos", "Made"]
        assert both["Photos"]["per_image"] == both["Made"]["per_image"]

    def test_without_ground_truth_there_are_images(self, test_options, tmp_path, windows):
        test_options["datasets"] = {"test": {"name": "Only", "type": "SingleImageDataset", "dataroot_lq": str(windows)}}
        test_options["val"] |= {"save_img": True, "suffix": "big"}
        assert call(basicsr.test, tmp_path, test_options) == 0
        height, width = image_size(windows / "chelsea.png")
        folder = tmp_path / "results/tested/visualization/Only"
        assert files(folder) == {f"{name}_big.png" for name in NAMES}
        assert image_size(folder / "chelsea_big.png") == (2 * height, 2 * width)
        assert not (tmp_path / "results/tested/scores.md").exists()  # nothing was scored

    def test_the_average_is_tested_on_demand(self, test_options, tmp_path, trained):
        assert call(basicsr.test, tmp_path, test_options, "--force_yml", "path:param_key_g=params_ema") == 0
        logged = read_log(next((trained / "experiments" / "tiny").glob("*.log")))["metrics/Photos/psnr"][4]
        assert scores_of(tmp_path)["mean"]["psnr"] == pytest.approx(logged, abs=1e-4)
        assert "with param key: [params_ema]." in log_of(tmp_path / "results" / "tested")


class TestTwoProcesses:
    def test_training(self, options, tmp_path):
        run = options(total_iter=2)
        run["val"] |= {"val_freq": 1, "save_img": True}
        (tmp_path / "one").mkdir()
        assert call(basicsr.train, tmp_path / "one", run) == 0
        run["datasets"]["train"]["batch_size_per_gpu"] = 1
        (tmp_path / "two").mkdir()
        done = spawn("train", tmp_path / "two", run, processes=2)
        assert done.returncode == 0, done.stderr
        assert not re.search("Traceback|Error|ERROR|CRITICAL", done.stderr)
        assert files(tmp_path / "two") == files(tmp_path / "one")
        one, two = (read_log(next((tmp_path / n / "experiments/tiny").glob("*.log"))) for n in ("one", "two"))
        assert one.keys() == two.keys()
        for tag, values in one.items():
            assert two[tag] == pytest.approx(values, rel=1e-3)
        log = log_of(tmp_path / "two" / "experiments" / "tiny")
        assert len(re.findall(r"iter: +\d,", log)) == log.count("Validation Photos") == 2
        assert len(load(tmp_path / "two" / STATES / "2.state")["rng"]) == 2

    @pytest.mark.slow
    def test_testing(self, test_options, tmp_path):
        test_options["val"]["save_img"] = True
        (tmp_path / "one").mkdir()
        assert call(basicsr.test, tmp_path / "one", test_options) == 0
        (tmp_path / "two").mkdir()
        done = spawn("test", tmp_path / "two", test_options, processes=2)
        assert done.returncode == 0, done.stderr
        assert not re.search("Traceback|Error|ERROR|CRITICAL", done.stderr)
        assert list(scores_of(tmp_path / "two")["per_image"]) == NAMES
        assert scores_of(tmp_path / "two") == scores_of(tmp_path / "one")
        assert files(tmp_path / "two") == files(tmp_path / "one")
