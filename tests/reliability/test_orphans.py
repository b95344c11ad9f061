"""SIGKILL of torchrun: its processes, and their loader processes, save if they can, and end."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from reliability.runs import SCRIPT, Run, options
from reliability.test_stop import children_of, states

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
LIMIT = 20  # seconds promised; docs/reliability.md has those measured


class OrphanedRun(Run):
    """A run of two processes under torchrun."""

    def begin(self, *launch):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])}
        argv = [sys.executable, "-m", "torch.distributed.run", *launch, str(SCRIPT), "-opt", "run.yml"]
        process = subprocess.Popen(
            argv, cwd=self.folder, env=env, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        threading.Thread(target=self._follow, args=(process,), daemon=True).start()
        self.processes = [process]

    def kill_launcher(self):
        """SIGKILL torchrun; returns the seconds until all that it has started are gone."""
        launcher = self.processes[0].pid
        family = descendants(launcher)
        assert family
        begin = time.monotonic()
        os.kill(launcher, signal.SIGKILL)
        try:
            while any(is_running(pid) for pid in family):
                assert time.monotonic() < begin + 3 * LIMIT, (family, self.output)
                time.sleep(0.05)
        finally:
            for pid in filter(is_running, family):
                os.kill(pid, signal.SIGKILL)
        return time.monotonic() - begin, len(family)


def descendants(pid):
    children = [int(child) for child in children_of(pid)]
    return [*children, *(below for child in children for below in descendants(child))]


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("where", ["training", "validation"])
def test_during(where, tmp_path, record_property):
    train = {"batch_size_per_gpu": 1, "num_worker_per_gpu": 1}
    images = {"type": "PairedImageDataset", "dataroot_gt": str(tmp_path / "images"), "num_worker_per_gpu": 1}
    val = {"val_freq": 2, "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 2}}, "pbar": False}
    changes = {"datasets": {"train": train}, "logger": {"save_checkpoint_freq": 5000}}
    if where == "validation":  # one that takes a while: 100 data sets
        changes["datasets"] |= {f"val_{k}": {"name": f"v{k}", **images} for k in range(100)}
        changes["val"] = val
    with OrphanedRun(tmp_path / "run", options(tmp_path, 5000, **changes), 2) as run:
        run.begin("--standalone", "--nproc_per_node=2")
        assert run.wait_for(lambda: "Validation v" in run.output if where == "validation" else run.seen >= 2), (
            run.output
        )
        seconds, number = run.kill_launcher()
        record_property("seconds", round(seconds, 1))
        print(f"{where}: {number} processes ended within {seconds:.1f} s")
        assert seconds < LIMIT
        time.sleep(0.1)
        assert "is gone: saving" in run.output
        assert len(states(run)) == 1, run.output  # saved, as after SIGTERM


@pytest.mark.slow
def test_while_waiting_for_the_others(tmp_path, record_property):
    """One node of two, the other of which never comes."""
    with OrphanedRun(tmp_path / "run", options(tmp_path), 2) as run:
        run.begin("--nproc_per_node=1", "--nnodes=1", "--no-python", "env", "WORLD_SIZE=2", sys.executable)
        assert run.wait_for(lambda: descendants(run.processes[0].pid))
        time.sleep(8)  # into init_process_group
        seconds, _ = run.kill_launcher()
        record_property("seconds", round(seconds, 1))
        print(f"waiting: ended within {seconds:.1f} s")
        assert seconds < LIMIT


@pytest.mark.slow
def test_before_anything_is_imported(tmp_path, record_property):
    with OrphanedRun(tmp_path / "run", options(tmp_path, 5000), 2) as run:
        run.begin("--standalone", "--nproc_per_node=2")
        assert run.wait_for(lambda: len(descendants(run.processes[0].pid)) == 2)
        seconds, _ = run.kill_launcher()
        record_property("seconds", round(seconds, 1))
        print(f"importing: ended within {seconds:.1f} s")
        assert seconds < LIMIT
