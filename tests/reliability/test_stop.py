"""Signals: the iteration is saved, the exit code is that of the signal, and a resumed run ends the same."""

import fcntl
import logging
import os
import pty
import signal
import subprocess
import sys
import termios
import time

import pytest
import torch
from reliability.runs import SCRIPT, Run, options

import basicsr.train
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.engine import signals
from basicsr.engine.signals import REQUESTS, TIME_IS_UP, InterruptibleLoader, StopRequest
from basicsr.metrics.evaluate import Best
from basicsr.models.sr_model import SRModel

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129, signal.SIGUSR1: 138}


@pytest.fixture
def train(monkeypatch, request):
    """A function that trains in a folder, in this process; returns the exit code."""
    monkeypatch.setattr(logging.getLogger("basicsr"), "handlers", [])

    def train(run, *flags):
        monkeypatch.chdir(run.folder)
        torch.set_num_threads(1)
        return basicsr.train.main(["-opt", "run.yml", *flags])

    return train


def signal_at(monkeypatch, number, iteration):
    """Raise a signal in the middle of that step of the next run."""
    take_step = SRModel.optimize_parameters

    def optimize_parameters(self, current_iter):
        if current_iter == iteration:
            signal.raise_signal(number)
        take_step(self, current_iter)

    monkeypatch.setattr(SRModel, "optimize_parameters", optimize_parameters)


def interrupted(*args):
    raise KeyboardInterrupt  # as SIGINT does where no step is running


def states(run):
    return sorted(int(path.stem) for path in (run.experiment / "training_states").glob("*.state"))


@pytest.mark.parametrize("number", CODES)
def test_a_stopped_run_is_saved_and_resumes(number, train, tmp_path, monkeypatch, capsys):
    values = options(tmp_path, train={"ema_decay": 0.9})
    straight, stopped = Run(tmp_path / "straight", values), Run(tmp_path / "stopped", values)
    assert train(straight) == 0
    with monkeypatch.context() as patch:
        signal_at(patch, number, 3)
        before = signal.getsignal(number)
        assert train(stopped) == CODES[number]
        assert signal.getsignal(number) is before
    err = capsys.readouterr().err
    assert f"stopped by {signal.Signals(number).name}; iteration 3 of 6 is saved; go on with --auto_resume" in err
    assert states(stopped) == [2, 3]
    assert train(stopped, "--auto_resume") == 0
    assert stopped.result() == straight.result()


def test_an_interrupted_validation_is_done_on_resume(train, tmp_path, monkeypatch):
    images = {"type": "PairedImageDataset", "dataroot_gt": str(tmp_path / "images")}
    psnr = {"type": "calculate_psnr", "crop_border": 2}
    values = options(tmp_path, datasets={"val": images}, val={"val_freq": 3, "metrics": {"psnr": psnr}, "pbar": False})
    straight, stopped = Run(tmp_path / "straight", values), Run(tmp_path / "stopped", values)
    assert train(straight) == 0
    scored = []
    with monkeypatch.context() as patch:
        read, taken = PairedImageDataset.__getitem__, []

        def getitem(self, index):
            if isinstance(index, int):  # an image of the validation, not a sample of an epoch
                taken.append(index)
                if len(taken) == 2:
                    signal.raise_signal(signal.SIGTERM)
            return read(self, index)

        patch.setattr(PairedImageDataset, "__getitem__", getitem)
        patch.setattr(Best, "update", lambda self, scores, it: scored.append(it))
        assert train(stopped) == 143
    assert len(taken) < 5 and not scored
    state = torch.load(stopped.experiment / "training_states/3.state", weights_only=True)
    assert state["to_validate"]
    assert train(stopped, "--auto_resume") == 0
    assert stopped.result() == straight.result()  # the best scores are part of it


def test_a_run_that_died_in_its_last_validation_does_it_on_resume(train, tmp_path, monkeypatch):
    images = {"type": "PairedImageDataset", "dataroot_gt": str(tmp_path / "images")}
    psnr = {"type": "calculate_psnr", "crop_border": 2}
    values = options(tmp_path, datasets={"val": images}, val={"metrics": {"psnr": psnr}, "pbar": False})
    straight, died = Run(tmp_path / "straight", values), Run(tmp_path / "died", values)
    assert train(straight) == 0
    with monkeypatch.context() as patch:
        patch.setattr(SRModel, "validation", interrupted)
        assert train(died) == 130
    assert train(died, "--auto_resume") == 0
    assert died.result() == straight.result()
    assert train(died, "--auto_resume") == 0  # again: nothing is left to do
    assert died.result() == straight.result()


def test_a_request_after_the_last_iteration_postpones_the_last_validation(train, tmp_path, monkeypatch, capsys):
    images = {"type": "PairedImageDataset", "dataroot_gt": str(tmp_path / "images")}
    psnr = {"type": "calculate_psnr", "crop_border": 2}
    values = options(tmp_path, datasets={"val": images}, val={"metrics": {"psnr": psnr}, "pbar": False})
    straight, stopped = Run(tmp_path / "straight", values), Run(tmp_path / "stopped", values)
    assert train(straight) == 0
    save = basicsr.train.Trainer.save

    def save_and_signal(self):
        save(self)
        if self.progress.iter == 6:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(basicsr.train.Trainer, "save", save_and_signal)
        assert train(stopped) == 143
    assert "stopped by SIGTERM; iteration 6 of 6 is saved; go on with --auto_resume" in capsys.readouterr().err
    assert train(stopped, "--auto_resume") == 0
    assert stopped.result() == straight.result()


class TestStopRequest:
    def test_the_second_signal_ends_at_once(self, monkeypatch):
        ended = []
        monkeypatch.setattr(os, "_exit", ended.append)
        monkeypatch.setattr("basicsr.engine.signals.SAME_REQUEST_SECONDS", 0.05)
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)  # the scheduler's, passed on by the launcher
            assert (stop.agree(), ended) == (signal.SIGTERM, [])
            time.sleep(0.06)
            signal.raise_signal(signal.SIGINT)
        assert ended == [130]

    @pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
    def test_what_is_ignored_at_the_start_stays_ignored(self, number):
        before = signal.signal(number, signal.SIG_IGN)  # as nohup does
        try:
            with StopRequest() as stop:
                signal.raise_signal(number)
                assert stop.agree() == 0
            assert signal.getsignal(number) is signal.SIG_IGN
        finally:
            signal.signal(number, before)

    def test_a_signal_overrides_the_end_of_the_time(self):
        for number in CODES:
            with StopRequest(deadline=0.0) as stop:
                assert stop.agree() == TIME_IS_UP
                signal.raise_signal(number)
                assert stop.agree() == number
            assert REQUESTS.index(number) > REQUESTS.index(TIME_IS_UP)  # of another process

    def test_a_loader_is_interrupted(self):
        with StopRequest() as stop:
            seen = []
            for item in InterruptibleLoader([1, 2, 3], stop):
                seen.append(item)
                if item == 2:
                    signal.raise_signal(signal.SIGTERM)
        assert seen == [1, 2]


@pytest.mark.slow
def test_one_of_two_processes_gets_a_signal_and_both_stop_at_the_same_step(tmp_path):
    """A real SIGTERM, and a SIGINT that loader processes get as well, as from a terminal."""
    changes = {"datasets": {"train": {"batch_size_per_gpu": 1, "num_worker_per_gpu": 1}}}
    values = options(tmp_path, 2000, **changes)
    with Run(tmp_path / "run", values, processes=2) as run:
        run.start()
        assert run.wait_for(lambda: run.seen >= 2)
        workers = [int(pid) for p in run.processes for pid in children_of(p.pid)]
        assert len(workers) == 2
        for pid in workers:
            for number in CODES:  # launchers and terminals signal whole groups
                os.kill(pid, number)
        run.send(signal.SIGTERM, [1])
        assert run.wait() == [143, 143], run.output
        assert f"iteration {max(states(run))} of 2000 is saved" in run.output
        assert "Traceback" not in run.output


@pytest.mark.slow
def test_a_closed_terminal_saves(tmp_path):
    """The kernel sends SIGHUP, and nothing can be written to stderr any more."""
    with Run(tmp_path / "run", options(tmp_path, 5000)) as run:
        terminal, tty = pty.openpty()
        argv = [sys.executable, str(SCRIPT), "-opt", "run.yml"]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])}

        def take_terminal():
            os.setsid()
            fcntl.ioctl(2, termios.TIOCSCTTY, 0)

        process = subprocess.Popen(argv, cwd=run.folder, env=env, stdin=tty, stdout=tty, stderr=tty,
                                   preexec_fn=take_terminal)  # fmt: skip
        run.processes = [process]
        os.close(tty)
        output = b""
        while b"iter:       2" not in output:
            output += os.read(terminal, 10_000)
        os.close(terminal)
        assert process.wait(100) == 129
        last = states(run)[-1]
        log = next(run.experiment.glob("train_*.log")).read_text()
        assert f"stopped by SIGHUP; iteration {last} of 5000 is saved" in log


@pytest.mark.slow
def test_a_run_whose_output_nobody_reads_any_more_goes_on(tmp_path):
    """`basicsr-train 2>&1 | tee log`, where tee has ended."""
    with Run(tmp_path / "run", options(tmp_path, 300)) as run:
        argv = [sys.executable, str(SCRIPT), "-opt", "run.yml"]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])}
        process = subprocess.Popen(argv, cwd=run.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        run.processes = [process]
        process.stdout.read(1)
        process.stdout.close()
        assert process.wait(200) == 0
        assert (run.experiment / "finished").exists()


def test_a_signal_that_comes_while_the_processes_agree_counts_the_next_time(monkeypatch):
    signalled = []

    def all_reduce(flag, *args, **kwargs):
        if not signalled:
            signalled.append(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(signals, "get_dist_info", lambda: (0, 2))
    monkeypatch.setattr(signals.dist, "get_backend", lambda: "gloo")
    monkeypatch.setattr(signals.dist, "all_reduce", all_reduce)
    with StopRequest() as stop:
        assert [stop.agree(), stop.agree()] == [0, signal.SIGTERM]


def children_of(pid):
    path = f"/proc/{pid}/task/{pid}/children"
    if not os.path.exists(path):
        pytest.skip("needs /proc")
    with open(path) as file:
        return file.read().split()
