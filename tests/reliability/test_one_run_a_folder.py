"""A second run of one name is refused before it touches anything."""

import signal
from pathlib import Path

import pytest
import torch
from reliability.runs import Run, options

import basicsr.test
import basicsr.train
from basicsr.engine.folder_lock import folders_locked

ONE_EACH = {"datasets": {"train": {"batch_size_per_gpu": 1}}}


def files(folder):
    """Path -> length of all but logs, which grow."""
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.suffix != ".log"}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_second_run_is_refused_until_the_first_is_gone(processes, tmp_path):
    changes = {"logger": {"save_checkpoint_freq": 1000, "use_tb_logger": True}, **(ONE_EACH if processes > 1 else {})}
    values = options(tmp_path, 2000, **changes)
    with Run(tmp_path / "run", values, processes) as first, Run(tmp_path / "run", values, processes) as second:
        first.start()
        assert first.wait_for(lambda: first.seen), first.output
        before, others = files(first.experiment), sorted(first.folder.iterdir())
        second.start()  # with --auto_resume
        assert second.wait() == [2] * processes, second.output
        assert f"run: is in use by process {first.processes[0].pid} on " in second.output
        assert "Traceback" not in second.output
        second.start("--force_yml", "path:experiments_root=elsewhere")  # the same folder of TensorBoard
        assert second.wait() == [2] * processes, second.output
        assert "tb_logger/run: is in use by" in second.output
        assert files(first.experiment) == before
        assert {*first.folder.iterdir()} - {*others} <= {first.folder / "elsewhere"}
        assert first.is_running()
        first.send(signal.SIGKILL)
        first.wait()
        assert (first.experiment.parent / ".run.lock").exists()  # left over
        second.start("--force_yml", "train:total_iter=2")
        assert second.wait() == [0] * processes, second.output
    assert not [*tmp_path.glob("run/**/.*lock*")]


@pytest.mark.parametrize("flags", [(), ("--auto_resume",)])
@pytest.mark.parametrize("folder", ["experiments/run", "tb_logger/run"])
def test_training_is_refused(folder, flags, tmp_path, monkeypatch, capsys):
    run = Run(tmp_path / "run", options(tmp_path))
    monkeypatch.chdir(run.folder)
    torch.set_num_threads(1)
    Path(folder, "old").mkdir(parents=True)
    with folders_locked([Path(folder)]):
        assert basicsr.train.main(["-opt", "run.yml", *flags]) == 2
        assert f"{folder}: is in use by process" in capsys.readouterr().err
        assert {path.name for path in run.folder.glob("*/*")} == {"run", ".run.lock"}
        assert [*run.folder.glob("*/run/*")] == [Path(folder, "old").absolute()]
    assert basicsr.train.main(["-opt", "run.yml", *flags, "--force_yml", "train:total_iter=1"]) == 0


def test_testing_is_refused(tmp_path, monkeypatch, capsys):
    images = {"name": "Images", "type": "PairedImageDataset", "dataroot_gt": str(tmp_path / "images")}
    values = options(tmp_path, datasets={"test": images})
    values["network_g"] = {"type": "Bicubic", "upscale": 2}
    del values["train"], values["datasets"]["train"], values["logger"]
    run = Run(tmp_path / "run", values)
    monkeypatch.chdir(run.folder)
    (run.folder / "results/run").mkdir(parents=True)
    with folders_locked([Path("results/run")]):
        assert basicsr.test.main(["-opt", "run.yml"]) == 2
        assert "results/run: is in use by process" in capsys.readouterr().err
        assert [path.name for path in (run.folder / "results").glob("[!.]*")] == ["run"]
