"""A full /dev/shm, as in containers: one line says what to do."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from reliability.runs import ROOT, Run, options

from basicsr.data import build_dataloader
from basicsr.engine.run import run_command
from basicsr.engine.shared_memory import shared_memory_hint

CAN_MOUNT = (
    sys.platform == "linux"
    and not subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/dev/shm"],
        capture_output=True,
        check=False,
    ).returncode
)


@pytest.mark.skipif(not CAN_MOUNT, reason="needs the right to mount")
@pytest.mark.parametrize("size", ["0", "4k", pytest.param("1m", marks=pytest.mark.slow)])
def test_a_training_run(size, tmp_path):
    """A size of 0 means no limit but for inodes, of which there is none left: no semaphore can be made."""
    train = {"batch_size_per_gpu": 64, "gt_size": 32, "num_worker_per_gpu": 2, "dataset_enlarge_ratio": 100}
    run = Run(tmp_path / "run", options(tmp_path, datasets={"train": train}))
    limit = "nr_inodes=1" if size == "0" else f"size={size}"
    command = f'mount -t tmpfs -o {limit} tmpfs /dev/shm && exec "$@"'
    argv = ["unshare", "--mount", "sh", "-c", command, "sh", sys.executable, "-m", "basicsr.train", "-opt", "run.yml"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, cwd=run.folder, env=env, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "CRITICAL" in line)
    assert "shared memory is full" in line and "--shm-size" in line and "num_worker_per_gpu: 0" in line


class Dies(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGBUS)
        time.sleep(10)


def test_a_loader_process_killed_by_sigbus(capsys):
    def body():
        next(iter(build_dataloader(Dies(), phase="test", num_workers=1)))

    assert run_command("prog", body) == 2
    assert "shared memory is full" in capsys.readouterr().err


MESSAGES = [
    "Caught RuntimeError in DataLoader worker process 0.\nunable to write to file </torch_12_3_4>: "
    "No space left on device (28)",
    "unable to allocate shared memory(shm) for file </torch_28921_1386341726_1>: No space left on device (28)",
    "unable to resize file </torch_1_2_3> to the right size: No space left on device (28)",
    "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
    "shared memory. Please try to raise your shared memory limit.",
    "Error while creating shared memory segment /dev/shm/nccl-abc (size 9637888)",
    "[Errno 28] No space left on device: '/dev/shm/psm_1'",
]


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_of_libraries(message):
    assert shared_memory_hint(RuntimeError(message))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
        OSError(28, "No space left on device", "experiments/run/models/net_g_1.pth"),
        OSError(28, "No space left on device"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
)
def test_other_errors_are_not_taken_for_it(error):
    assert shared_memory_hint(error) == ""
