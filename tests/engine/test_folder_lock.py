"""Locks of folders: who may hold them, which are left over, and what two starts at once do."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from basicsr.engine import folder_lock
from basicsr.engine.folder_lock import check_unlocked, folders_locked, lock_path
from basicsr.engine.processes import host_name, process_space, start_time
from basicsr.engine.run import archive_folder
from basicsr.errors import OptionError

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from basicsr.engine.folder_lock import folders_locked
with folders_locked([Path(sys.argv[1])]):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def start_holder(folder, seconds=100.0):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", HOLD, str(folder), str(seconds)]
    return subprocess.Popen(argv, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture
def holder(tmp_path):
    process = start_holder(tmp_path / "run")
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def write_lock(folder, **changes):
    """The lock of a process that lives: this one."""
    pid = os.getpid()
    content = {"host": host_name(), "pid": pid, "start": start_time(pid), "space": process_space(), "token": "other"}
    lock_path(folder).write_text(json.dumps({**content, **changes}))


def test_a_lock_is_held_beside_the_folder_and_removed(tmp_path):
    with folders_locked([tmp_path / "run"]):
        assert [path.name for path in tmp_path.iterdir()] == [".run.lock"]
        assert json.loads(lock_path(tmp_path / "run").read_text())["pid"] == os.getpid()
    assert not [*tmp_path.iterdir()]


def test_the_refusal_names_host_and_process(holder, tmp_path):
    with pytest.raises(OptionError, match=rf"run: is in use by process {holder.pid} on {host_name()} .*another name"):
        folders_locked([tmp_path / "run"]).__enter__()
    (tmp_path / "run").mkdir()
    with pytest.raises(OptionError, match="is in use"):
        archive_folder(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["run"]


def test_a_killed_process_does_not_hinder_even_before_it_is_waited_for(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # a zombie, as below a launcher that is busy
    begin = time.monotonic()
    with folders_locked([tmp_path / "run"]):
        assert time.monotonic() - begin < 5
        check_unlocked(tmp_path / "run")  # one's own


def test_another_process_with_the_same_id_does_not_hinder(tmp_path):
    write_lock(tmp_path / "run", start="1")
    with folders_locked([tmp_path / "run"]):
        assert "other" not in lock_path(tmp_path / "run").read_text()


def test_a_link_is_locked_with_what_it_leads_to(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    with folders_locked([tmp_path / "run"]), pytest.raises(OptionError, match="disk: is in use"):
        folders_locked([tmp_path / "disk"]).__enter__()


class TestAnotherHost:
    """A holder whose process cannot be asked."""

    @pytest.fixture(autouse=True)
    def fast(self, monkeypatch):
        monkeypatch.setattr(folder_lock, "STALE_AFTER", 1.5)
        monkeypatch.setattr(folder_lock, "LOOK_INTERVAL", 0.02)

    @pytest.fixture
    def folder(self, tmp_path):
        write_lock(tmp_path / "run", host="node7", space="another boot", pid=1)
        return tmp_path / "run"

    def test_a_beat_shows_that_it_lives(self, folder):
        timer = threading.Timer(0.3, os.utime, (lock_path(folder),))
        timer.start()
        with pytest.raises(OptionError, match="process 1 on node7"):
            folders_locked([folder]).__enter__()
        timer.join()

    def test_without_a_beat_it_is_taken_over(self, folder):
        begin = time.monotonic()
        with folders_locked([folder]):
            assert 1 < time.monotonic() - begin < 30
            assert "node7" not in lock_path(folder).read_text()
        assert not [*folder.parent.iterdir()]

    def test_an_old_lock_is_taken_over_at_once(self, folder, monkeypatch):
        monkeypatch.setattr(folder_lock, "STALE_AFTER", 100.0)
        os.utime(lock_path(folder), (time.time() - 101,) * 2)
        begin = time.monotonic()
        with folders_locked([folder]):
            assert time.monotonic() - begin < 30

    def test_the_clock_of_this_host_does_not_count(self, folder, monkeypatch):
        monkeypatch.setattr(time, "time", lambda: 1e10)
        with pytest.raises(OptionError, match="node7"):
            check_unlocked(folder)

    def test_a_lock_that_nobody_finished_to_write_is_taken_over(self, folder):
        lock_path(folder).write_text("")
        with folders_locked([folder]):
            pass


def test_the_holder_shows_that_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "BEAT_INTERVAL", 0.02)
    lock = lock_path(tmp_path / "run")
    with folders_locked([tmp_path / "run"]):
        os.utime(lock, (0, 0))
        end = time.monotonic() + 30
        while lock.stat().st_mtime == 0:
            assert time.monotonic() < end
            time.sleep(0.01)
        lock.unlink()  # by the user
        while not lock.exists():
            assert time.monotonic() < end
            time.sleep(0.01)
    assert not lock.exists()


def test_a_holder_that_has_lost_its_lock_ends(tmp_path, monkeypatch, caplog):
    ended = threading.Event()
    monkeypatch.setattr(folder_lock, "BEAT_INTERVAL", 0.02)
    monkeypatch.setattr(folder_lock.os, "_exit", lambda code: ended.set())
    with folders_locked([tmp_path / "run"]):
        write_lock(tmp_path / "run", host="node7")
        assert ended.wait(30)
    assert "was taken over by process" in caplog.text
    assert "node7" in lock_path(tmp_path / "run").read_text()  # not removed


@pytest.mark.parametrize("left_over", [False, True])
def test_of_starts_at_once_one_wins(left_over, tmp_path):
    if left_over:
        write_lock(tmp_path / "run", start="1")
    processes = [start_holder(tmp_path / "run") for _ in range(4)]
    end = time.monotonic() + 120
    while sum(process.poll() is None for process in processes) > 1:
        assert time.monotonic() < end
        time.sleep(0.05)
    (winner,) = (process for process in processes if process.poll() is None)
    assert winner.stdout.readline() == "held\n"
    winner.kill()
    for process in processes:
        process.wait()
        if process is not winner:
            assert f"is in use by process {winner.pid}" in process.stderr.read()
