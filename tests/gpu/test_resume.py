"""Training on the GPU repeats and resumes bit for bit, and checkpoints move between devices."""

import os
import subprocess
import sys

import pytest
import yaml
from gpu.training import (
    KINDS,
    assert_continued,
    catanet,
    difference,
    logs,
    resumed_and_uninterrupted,
    train_across_devices,
    train_in_subprocess,
    weights,
    with_device,
)
from reliability.runs import ROOT, Run

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_ends_like_one_that_never_stopped(kind, tmp_path):
    resumed, uninterrupted = resumed_and_uninterrupted(
        tmp_path, with_device("cuda", KINDS[kind](tmp_path)), train_in_subprocess
    )
    assert resumed == uninterrupted


@pytest.mark.parametrize(("first", "second"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_checkpoints_move_between_devices(first, second, tmp_path):
    values = catanet(tmp_path)
    uninterrupted = train_in_subprocess(tmp_path / "uninterrupted", with_device(first, values))
    run = train_across_devices(tmp_path / "moved", values, train_in_subprocess, first, second)
    assert f"run.device: {first} -> {second}" in logs(run)
    assert_continued(run, uninterrupted)


def test_torchrun_with_nccl_trains_like_one_process(tmp_path):
    values = with_device("cuda", catanet(tmp_path))
    alone, run = train_in_subprocess(tmp_path / "alone", values), Run(tmp_path / "torchrun", values)
    (run.folder / "run.yml").write_text(yaml.safe_dump({**values, "dist_params": {"backend": "nccl"}}))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"]
    argv = [*launcher, str(ROOT / "basicsr/train.py"), "-opt", "run.yml"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "NCCL_DEBUG": "VERSION"}
    done = subprocess.run(argv, cwd=run.folder, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert "NCCL version" in done.stdout + done.stderr
    assert difference(weights(run), weights(alone)) < 1e-5
