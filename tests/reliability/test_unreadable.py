"""Images that pass the check at the start and fail when they are read: scores and checkpoints are not lost."""

import csv
import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from helpers import damage_pixels, run_here, run_python, write_options
from reliability.runs import ROOT, TINY, Run, options, write_images

import basicsr.test
import basicsr.train
from basicsr.archs import build_network
from basicsr.engine.checkpoint import load_file, save_atomically
from basicsr.engine.curves import read_logs
from basicsr.models.sr_model import SRModel

PSNR = {"type": "calculate_psnr", "crop_border": 2}


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def vanish(path):
    path.unlink()


def break_disk(path):
    """Reading fails with EIO, as on a bad disk."""
    path.unlink()
    path.symlink_to("/proc/self/mem")


def forbid(path):
    path.chmod(0)


FAULTS = {
    damage_pixels: "cannot be decoded as an image; replace the file",
    truncate: "cut off",
    vanish: "cannot be read (No such file or directory); check the file and its disk",
    break_disk: "cannot be read (Input/output error); check the file and its disk",
    forbid: "cannot be read (Permission denied); check the file and its disk",
}


def skip_unless_possible(fault):
    if fault is break_disk and not Path("/proc/self/mem").exists():
        pytest.skip("needs /proc")
    if fault is forbid and os.geteuid() == 0:
        pytest.skip("root may read everything")


@pytest.fixture
def test_options(tmp_path):
    """The option file of a test run of two sets, of three and of two images."""

    def test_options(**changes):
        for name, number in (("A", 3), ("B", 2)):
            if not (tmp_path / name).exists():
                write_images(tmp_path / name)
            for k in range(number, 5):
                (tmp_path / name / f"{k}.png").unlink(missing_ok=True)
        torch.manual_seed(0)
        save_atomically({"params": build_network(TINY).state_dict()}, tmp_path / "net.pth")
        section = {"type": "PairedImageDataset", "num_worker_per_gpu": changes.pop("workers", 0)}
        sets = {f"test_{name}": {**section, "name": name, "dataroot_gt": str(tmp_path / name)} for name in ("A", "B")}
        values = {
            "name": "tested", "scale": 2, "num_gpu": 0, "network_g": TINY, "datasets": sets,
            "path": {"pretrain_network_g": str(tmp_path / "net.pth")},
            "val": {"metrics": {"psnr": PSNR}, "save_img": False, "pbar": False, **changes},
        }  # fmt: skip
        return write_options(tmp_path, values)

    return test_options


def scores_of(folder):
    return json.loads((folder / "results/tested/scores.json").read_text())


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_test_run_goes_on_and_says_what_is_missing(fault, workers, test_options, tmp_path, monkeypatch, capsys):
    skip_unless_possible(fault)
    path = test_options(workers=workers)
    assert run_here(basicsr.test, tmp_path, "-opt", path) == 0
    complete = scores_of(tmp_path)
    validation = SRModel.validation

    def break_first(self, loader, *args):
        if loader.name == "A":
            fault(tmp_path / "A/1.png")  # after the check at the start
        return validation(self, loader, *args)

    monkeypatch.setattr(SRModel, "validation", break_first)
    capsys.readouterr()
    assert run_here(basicsr.test, tmp_path, "-opt", path) == 2
    scores, folder = scores_of(tmp_path), tmp_path / "results/tested"
    assert scores["B"] == complete["B"]
    expected = {name: found for name, found in complete["A"]["per_image"].items() if name != "1"}
    assert scores["A"]["per_image"] == expected
    assert list(scores["A"]["failed"]) == ["1"] and FAULTS[fault] in scores["A"]["failed"]["1"]
    assert rows_of(folder / "scores_A.csv")[-1][0] == "mean of 2 of 3"
    assert "| 1 | - | - |" in (folder / "scores.md").read_text()
    err = capsys.readouterr().err
    errors = [line for line in err.splitlines() if " ERROR: " in line]
    assert len(errors) == 1 and str(tmp_path / "A/1.png") in errors[0] and FAULTS[fault] in errors[0]
    assert "basicsr-test: A: 1 images failed. The lines above say why; what there is, is in" in err
    assert not list(folder.glob("*unfinished*"))


def test_a_set_of_which_no_image_can_be_read_does_not_end_the_run(test_options, tmp_path):
    path = test_options()
    for image in (tmp_path / "A").iterdir():
        damage_pixels(image)
    assert run_here(basicsr.test, tmp_path, "-opt", path) == 2
    scores = scores_of(tmp_path)
    assert len(scores["A"]["failed"]) == 3 and scores["A"]["mean"] == {}
    assert len(scores["B"]["per_image"]) == 2 and scores["B"]["failed"] == {}


def test_an_image_that_a_metric_does_not_take_is_named(test_options, tmp_path):
    path = test_options(metrics={"psnr": {"type": "calculate_psnr", "crop_border": 18}})
    assert run_here(basicsr.test, tmp_path, "-opt", path) == 2
    scores = scores_of(tmp_path)
    assert "crop_border must be >= 0 and leave pixels" in scores["A"]["failed"]["0"]
    assert list(scores["A"]["per_image"]) == ["1", "2"]  # of 38 px; 18 px a side leave nothing of 36


def test_two_processes_test_what_can_be_read(test_options, tmp_path):
    path = test_options()
    assert run_here(basicsr.test, tmp_path, "-opt", path) == 0
    complete = scores_of(tmp_path)
    damage_pixels(tmp_path / "A/1.png")
    done = run_python(ROOT / "basicsr/test.py", "-opt", path, "--launcher", "pytorch", processes=2, cwd=tmp_path,
                      env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode != 0 and done.stderr.count("Traceback") == 1  # that of torchrun
    assert done.stderr.count("A/1.png: cannot be decoded") == 1
    scores = scores_of(tmp_path)
    assert list(scores["A"]["per_image"]) == ["0", "2"] and list(scores["A"]["failed"]) == ["1"]
    assert scores["B"]["per_image"] == complete["B"]["per_image"]


KILLED = """
import os, signal, sys
import basicsr.test
from basicsr.data.paired_image_dataset import PairedImageDataset

read = PairedImageDataset.__getitem__

def getitem(self, k):
    if k == 1 and self.gt_paths[k].parent.name == "B":
        os.kill(os.getpid(), signal.SIGKILL)
    return read(self, k)

PairedImageDataset.__getitem__ = getitem
sys.exit(basicsr.test.main())
"""


def test_a_killed_test_run_leaves_what_it_had(test_options, tmp_path):
    path = test_options()
    assert run_here(basicsr.test, tmp_path, "-opt", path) == 0
    complete = scores_of(tmp_path)
    done = run_python("-c", KILLED, "-opt", path, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert done.returncode == -signal.SIGKILL
    folder = tmp_path / "results/tested"
    assert scores_of(tmp_path) == {"A": complete["A"]}
    assert rows_of(folder / "scores_A.csv")[-1][0] == "mean"
    row = [str(value) for value in complete["B"]["per_image"]["0"].values()]
    assert rows_of(folder / "scores_B_unfinished.csv") == [["image", "psnr", "psnr_float"], ["0", *row]]
    assert not list(folder.glob(".*"))  # nothing half written


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_costs_pictures_and_tables_but_no_scores(test_options, tmp_path, monkeypatch, capsys):
    path = test_options(save_img=True)

    def write(self, data):
        with open("/dev/full", "wb", buffering=0) as full:
            return full.write(data)

    monkeypatch.setattr(Path, "write_bytes", write)
    assert run_here(basicsr.test, tmp_path, "-opt", path) == 2
    err = capsys.readouterr().err
    assert "A: 3 pictures could not be written; B: 2 pictures could not be written; the tables are not" in err
    assert "No space left on device" in err
    assert err.count("| **mean** |") == 2  # both tables are in the log
    assert len(rows_of(tmp_path / "results/tested/scores_A_unfinished.csv")) == 4


# Training.


def with_validation(folder, total_iter=6, **changes):
    """Options of a run that validates every second iteration, like its checkpoints, on images of its own."""
    if not (folder / "held").exists():
        write_images(folder / "held")
    val = {"type": "PairedImageDataset", "name": "Held", "dataroot_gt": str(folder / "held"), "cache_mb": 0}
    values = options(folder, total_iter, datasets={"val": val}, train={"ema_decay": 0.5}, **changes)
    values["val"] = {"val_freq": 2, "metrics": {"psnr": PSNR}, "pbar": False}
    return values


def best_of(run, it):
    return load_file(run.experiment / f"training_states/{it}.state")["best"]


def test_an_unreadable_validation_image_does_not_end_training(train, tmp_path, monkeypatch, capsys):
    straight, broken = (Run(tmp_path / name, with_validation(tmp_path)) for name in ("straight", "broken"))
    assert train(straight) == 0
    validation = SRModel.validation

    def break_second(self, loader, it, *args):
        image = tmp_path / "held/2.png"
        if it == 4:
            image.rename(tmp_path / "away.png")
        scores = validation(self, loader, it, *args)
        if it == 4:
            (tmp_path / "away.png").rename(image)
            assert scores.failed and len(scores.per_image) == 4
        return scores

    monkeypatch.setattr(SRModel, "validation", break_second)
    capsys.readouterr()
    assert train(broken) == 0
    err = capsys.readouterr().err
    assert f"Held: {tmp_path / 'held/2.png'}: cannot be read (No such file or directory)" in err
    assert "# incomplete, 4 of 5 images, psnr: " in err and "Incomplete validation: Held: 1 images failed" in err
    curve, other = (read_logs(r.experiment.glob("train_*.log"))["metrics/Held/psnr"] for r in (straight, broken))
    assert list(curve) == [2, 4, 6] and list(other) == [2, 6]  # no mean of other images in the curve
    weights, others = (load_file(r.experiment / "models/net_g_6.pth")["params"] for r in (straight, broken))
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=0, atol=0)
    assert best_of(broken, 6)["Held"]["psnr"][1] != 4


@pytest.mark.slow
def test_no_process_hangs_when_one_cannot_read_a_validation_image(tmp_path):
    values = with_validation(tmp_path, 4, dist_params={"timeout": 20})
    values["datasets"]["train"]["batch_size_per_gpu"] = 1
    damage_pixels(tmp_path / "held/1.png")
    with Run(tmp_path / "run", values, 2) as run:
        run.finish()
        assert "# incomplete, 4 of 5 images, psnr: " in run.output
        assert best_of(run, 4) == {"Held": {}}


VALIDATION_DIES = """
import os, signal, sys
import basicsr.train
from basicsr.models.sr_model import SRModel

validation = SRModel.validation

def validate(self, loader, it=None, *args):
    if it == int(os.environ["DIE_AT"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return validation(self, loader, it, *args)

SRModel.validation = validate
sys.exit(basicsr.train.main())
"""


@pytest.mark.parametrize("it", [4, 6])
def test_a_run_killed_between_save_and_validation_has_the_same_best(it, train, tmp_path):
    straight, killed = (Run(tmp_path / name, with_validation(tmp_path)) for name in ("straight", "killed"))
    assert train(straight) == 0
    done = run_python("-c", VALIDATION_DIES, "-opt", "run.yml", cwd=killed.folder,
                      env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DIE_AT": str(it)})  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (killed.experiment / f"training_states/{it}.state").exists()  # saved before
    assert train(killed, "--auto_resume") == 0
    assert killed.result() == straight.result()  # the best scores are part of it
    curves = [read_logs(run.experiment.glob("train_*.log"))["metrics/Held/psnr"] for run in (straight, killed)]
    assert curves[0] == curves[1] and list(curves[0]) == [2, 4, 6]


def test_a_mistake_in_a_metric_comes_after_the_checkpoint(train, tmp_path, monkeypatch):
    run = Run(tmp_path / "run", with_validation(tmp_path))

    def mistake(self, *args):
        raise ZeroDivisionError

    monkeypatch.setattr(SRModel, "validation", mistake)
    with pytest.raises(ZeroDivisionError):
        train(run)
    assert (run.experiment / "training_states/2.state").exists()
    assert load_file(run.experiment / "training_states/2.state")["to_validate"]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_training_image_saves_and_ends_with_its_name(workers, train, tmp_path, monkeypatch, capsys):
    changes = {"datasets": {"train": {"num_worker_per_gpu": workers, "cache_mb": 0}}}
    straight, broken = (Run(tmp_path / name, options(tmp_path, **changes)) for name in ("straight", "broken"))
    assert train(straight) == 0
    images, away, step = tmp_path / "images", tmp_path / "away", SRModel.optimize_parameters

    def optimize_parameters(self, it):
        if it == 3:
            images.rename(away)
        step(self, it)

    with monkeypatch.context() as patch:
        patch.setattr(SRModel, "optimize_parameters", optimize_parameters)
        capsys.readouterr()
        assert train(broken) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    last = max(int(path.stem) for path in (broken.experiment / "training_states").glob("*.state"))
    said = r"\d\.png: cannot be read \(No such file or directory\); check the file and its disk; "
    said += f"iteration {last} of 6 is saved; go on with --auto_resume\n"
    assert re.search(f"basicsr-train: {re.escape(str(images))}/{said}", err)
    assert last >= 3
    away.rename(images)
    assert train(broken, "--auto_resume") == 0
    assert broken.result() == straight.result()


@pytest.mark.slow
def test_all_processes_save_when_one_cannot_read_a_training_image(tmp_path):
    changes = {"datasets": {"train": {"batch_size_per_gpu": 1, "cache_mb": 0}}, "dist_params": {"timeout": 30}}
    straight = Run(tmp_path / "straight", options(tmp_path, 400, **changes), 2)
    with Run(tmp_path / "broken", options(tmp_path, 400, **changes), 2) as broken:
        image = tmp_path / "images/3.png"
        broken.start()
        assert broken.wait_for(lambda: broken.seen >= 3), broken.output
        image.rename(tmp_path / "away.png")
        assert broken.wait() == [2, 2], broken.output
        assert "Traceback" not in broken.output
        last = max(int(path.stem) for path in (broken.experiment / "training_states").glob("*.state"))
        assert f"{image}: cannot be read (No such file" in broken.output
        assert f"iteration {last} of 400 is saved; go on with --auto_resume" in broken.output
        (tmp_path / "away.png").rename(image)
        broken.finish()
    with straight:
        straight.finish()
        assert broken.result() == straight.result()


def test_the_first_batch_may_be_the_unreadable_one(train, tmp_path, capsys):
    run = Run(tmp_path / "run", options(tmp_path, datasets={"train": {"cache_mb": 0}}))
    for image in (tmp_path / "images").iterdir():
        damage_pixels(image)
    assert train(run) == 2
    assert "cannot be decoded as an image; replace the file; no iteration is done yet" in capsys.readouterr().err
