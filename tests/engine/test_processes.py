"""Processes without their launcher: they notice, save by SIGTERM, and end."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from basicsr.engine.processes import is_orphan, launcher_id, start_time

ROOT = Path(__file__).parents[2]
LAUNCHER = """
import subprocess, sys, time
child = subprocess.Popen(sys.argv[1:], start_new_session=True)
print(child.pid, flush=True)
time.sleep(100)
"""
CHILD = """
import os, signal, sys, threading, time
from basicsr.engine import processes
processes.END_TIMEOUT = 3.0
reported = threading.Event()
def end(*_):
    reported.wait(30)  # SIGTERM comes before the report
    os._exit(0)
signal.signal(signal.SIGTERM, end if sys.argv[1] == "ends" else lambda *_: None)
def report(line):
    print(line, flush=True)
    reported.set()
    raise OSError("a closed terminal")
processes.watch_launcher(report)
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""


class Launched:
    def __init__(self, *argv, **environ):
        env = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
        command = [sys.executable, "-c", LAUNCHER, *argv]
        self.launcher = subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.pid = int(self.launcher.stdout.readline())

    def ready(self):
        assert self.launcher.stdout.readline() == "ready\n"
        self.launcher.kill()
        self.launcher.wait()

    def ends(self, seconds):
        end = time.monotonic() + seconds
        while start_time(self.pid):
            if time.monotonic() > end:
                os.kill(self.pid, 9)
                return False
            time.sleep(0.02)
        return True


@pytest.mark.parametrize("how", ["ends", "hangs"])
def test_a_process_without_its_launcher_ends(how):
    run = Launched(sys.executable, "-c", CHILD, how, TORCHELASTIC_RUN_ID="none")
    run.ready()
    assert run.ends(30)
    assert f"torchrun (process {run.launcher.pid}) is gone" in run.launcher.stdout.read()


def test_a_wrapper_between_the_two_does_not_hide_it():
    run = Launched("sh", "-c", '"$@"; true', "sh", sys.executable, "-c", CHILD, "ends", TORCHELASTIC_RUN_ID="none")
    run.ready()
    assert run.ends(30)  # the wrapper, after its child


def test_without_torchrun_a_process_outlives_the_shell(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    run = Launched(sys.executable, "-c", CHILD, "ends")
    run.ready()
    assert not run.ends(2)


@pytest.mark.skipif(not Path("/proc/self/exe").exists(), reason="needs /proc")
def test_a_launcher_that_is_gone_before_the_first_look():
    assert not is_orphan(os.getpid())
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert is_orphan(ended.pid)
    with subprocess.Popen(["sleep", "100"]) as other:  # what adopts orphans is not Python
        time.sleep(0.2)
        assert is_orphan(other.pid)
        other.kill()
    assert launcher_id() > 0
