"""A second run of one name, in processes of its own, is refused before it touches anything."""

import signal

import pytest
from reliability.runs import Run, options

ONE_EACH = {"datasets": {"train": {"batch_size_per_gpu": 1}}}


def files(folder):
    """Path -> length of all but logs, which grow."""
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.suffix != ".log"}


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
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
