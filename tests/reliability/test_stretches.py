"""Training in stretches, `--minutes`, on several machines: a moved run ends with the bits of an undisturbed one."""

import math
import os
import shutil
import signal
import time

import pytest
import torch
from helpers import run_here, run_python
from reliability.runs import Run, options, pruning

import basicsr.train
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.engine.processes import process_age
from basicsr.engine.signals import TIME_IS_UP, RunStoppedError, StopRequest

SHORT = ("--minutes", "0.0001")  # over before the first iteration, which is done nevertheless


def train(run, *flags):
    torch.set_num_threads(1)
    return run_here(basicsr.train, run.folder, "-opt", "run.yml", "--auto_resume", *flags)


def states(run):
    return sorted(int(path.stem) for path in (run.experiment / "training_states").glob("*.state"))


def with_validation(folder, **val):
    images = {"type": "PairedImageDataset", "dataroot_gt": str(folder / "images")}
    psnr = {"type": "calculate_psnr", "crop_border": 2}
    return options(folder, 3, datasets={"val": images}, val={"metrics": {"psnr": psnr}, "pbar": False, **val})


def test_every_stretch_takes_at_least_a_step(tmp_path, capsys):
    straight, short = (Run(tmp_path / name, options(tmp_path, 3)) for name in ("straight", "short"))
    assert train(straight) == 0
    assert (straight.experiment / "finished").read_text() == "3 iterations\n"
    for it in (1, 2, 3):
        assert train(short, *SHORT) == 75
        assert f"stopped because its time is up; iteration {it} of 3 is saved; go on with --auto_resume" in (
            capsys.readouterr().err
        )
        assert max(states(short)) == it and not (short.experiment / "finished").exists()
    assert train(short, "--minutes", "60") == 0
    assert short.result() == straight.result()
    assert (short.experiment / "finished").exists()


def test_a_finished_run_that_goes_on_is_unfinished(tmp_path):
    run = Run(tmp_path / "run", options(tmp_path, 2))
    assert train(run) == 0
    assert train(run, *SHORT) == 0  # nothing is left to do
    assert (run.experiment / "finished").exists()
    assert train(run, *SHORT, "--force_yml", "train:total_iter=4") == 75
    assert not (run.experiment / "finished").exists()


@pytest.mark.parametrize("val_freq", [2, None])
def test_a_validation_is_interrupted_and_done_in_the_next_stretch(val_freq, tmp_path, monkeypatch, capsys):
    """One between the iterations, or the last one."""
    values = with_validation(tmp_path, val_freq=val_freq)
    straight, short = Run(tmp_path / "straight", values), Run(tmp_path / "short", values)
    assert train(straight) == 0
    read, taken = PairedImageDataset.__getitem__, []

    def getitem(self, index):
        if isinstance(index, int):  # an image of the validation, not a sample of an epoch
            taken.append(index)
            if len(taken) == 2:
                monkeypatch.setattr(StopRequest, "received", TIME_IS_UP)
        return read(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(PairedImageDataset, "__getitem__", getitem)
        assert train(short) == 75
    monkeypatch.undo()
    assert len(taken) < 5
    if val_freq is not None:  # a stretch that is too short for a validation stays where it is
        assert train(short, *SHORT) == 75
        assert "iteration 2 of 3 is saved and still to be validated" in capsys.readouterr().err
    assert train(short) == 0
    assert short.result() == straight.result()  # the best scores are part of it


def test_minutes_must_be_positive(capsys):
    for text in ("0", "-1", "nan", "soon"):
        with pytest.raises(SystemExit) as stop:
            basicsr.train.main(["-opt", "x.yml", "--minutes", text])
        assert stop.value.code == 2
        assert "argument --minutes" in capsys.readouterr().err


class TestStopRequest:
    def test_the_time(self):
        assert (StopRequest().received, StopRequest(deadline=math.inf).agree()) == (0, 0)
        stop = StopRequest(deadline=time.monotonic() + 0.05)
        assert stop.agree() == 0
        time.sleep(0.06)
        assert stop.received == stop.agree() == TIME_IS_UP

    def test_a_signal_overrides_it_and_does_not_end_the_process(self):
        with StopRequest(deadline=0.0) as stop:
            assert stop.agree() == TIME_IS_UP
            signal.raise_signal(signal.SIGTERM)
            assert stop.agree() == signal.SIGTERM
            with pytest.raises(RunStoppedError, match="SIGTERM") as stopped:
                stop.raise_if_agreed("all")
        assert stopped.value.exit_code == 143

    def test_torchrun_takes_other_codes_for_failures(self, monkeypatch):
        monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
        assert RunStoppedError(TIME_IS_UP, "all").exit_code == 75
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
        assert RunStoppedError(TIME_IS_UP, "all").exit_code == 0

    @pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
    def test_the_age_of_a_process_includes_its_imports(self):
        code = "import time; time.sleep(0.5); from basicsr.engine.processes import process_age; print(process_age())"
        begin = time.monotonic()
        age = float(run_python("-c", code).stdout)
        assert 0.45 < age <= time.monotonic() - begin + 0.05
        assert process_age() > 0


def moved(tmp_path, name, before, changes):
    """A run in a copy of everything that the run `before` had: images, weights, experiments; the old place is gone."""
    folder = tmp_path / name
    if before is not None:
        shutil.copytree(before.folder, folder)
        shutil.rmtree(before.folder)
    folder.mkdir(exist_ok=True)
    values = options(folder, 5, deterministic=True, **changes(folder))  # with absolute paths of this folder
    return Run(folder, values)


def super_resolution(workers):
    data = {"datasets": {"train": {"num_worker_per_gpu": workers}}}
    return lambda folder: {**data, "train": {"ema_decay": 0.9}}


def search(workers):
    data = {"datasets": {"train": {"num_worker_per_gpu": workers}}}
    return lambda folder: {**data, **pruning(folder, 5)}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [super_resolution, search])
def test_three_stretches_on_three_machines(kind, workers, tmp_path):
    changes = kind(workers)
    with moved(tmp_path, "straight", None, changes) as straight:
        straight.finish()
    run = None
    for k in range(2):
        with moved(tmp_path, f"machine{k}", run, changes) as run:
            run.start(*SHORT)
            assert run.wait() == [75], run.output
            assert states(run)[-1] == k + 1
    with moved(tmp_path, "machine2", run, changes) as run:
        run.finish()
        assert "(the same files)" in run.output
    assert run.result() == straight.result()


@pytest.mark.slow
def test_two_processes_stop_together(tmp_path):
    values = options(tmp_path, 4, datasets={"train": {"batch_size_per_gpu": 1}}, train={"ema_decay": 0.9})
    with Run(tmp_path / "straight", values, 2) as straight, Run(tmp_path / "short", values, 2) as short:
        straight.finish()
        short.start(*SHORT)
        assert short.wait() == [75, 75], short.output
        short.finish()
    assert short.result() == straight.result()


@pytest.mark.slow
def test_torchrun_sees_no_failure(tmp_path):
    values = options(tmp_path, 4, datasets={"train": {"batch_size_per_gpu": 1}}, train={"ema_decay": 0.9})
    straight, short = Run(tmp_path / "straight", values, 2), Run(tmp_path / "short", values)
    with straight:
        straight.finish()
    command = ("-m", "basicsr.train", "-opt", "run.yml", "--auto_resume")
    for k in range(5):  # four iterations, then the end of the run
        done = run_python(*command, *SHORT, processes=2, cwd=short.folder, timeout=300)
        assert done.returncode == 0, done.stderr
        assert ("because its time is up" in done.stderr) == (not (short.experiment / "finished").exists()) == (k < 4)
    assert short.result() == straight.result()
