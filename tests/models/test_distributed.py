"""Two gloo processes with half the batch each are one process with the whole batch."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

WORKER = Path(__file__).with_name("ddp_worker.py")
OPTIONS = {
    "name": "ddp", "scale": 2, "num_gpu": 0,
    "datasets": {"train": {"type": "PairedImageDataset", "dataroot_gt": "unused"}},
    "network_g": {"type": "CATANet", "upscale": 2, "dim": 16, "block_num": 2, "qk_dim": 12, "mlp_dim": 24, "heads": 2,
                  "patch_size": [8, 10], "num_tokens": [4, 60], "group_size": [64, 32], "n_iters": [1, 3]},
    "train": {"total_iter": 2, "ema_decay": 0.5, "grad_clip": 0.01, "optim_g": {"type": "Adam", "lr": 1e-3},
              "pixel_opt": {"type": "L1Loss"}},
}  # fmt: skip


def run(tmp_path, processes, **train):
    options = tmp_path / f"{processes}.yml"
    options.write_text(yaml.safe_dump({**OPTIONS, "train": {**OPTIONS["train"], **train}}))
    out = tmp_path / f"{processes}.pt"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    done = subprocess.run([*launcher, str(WORKER), str(options), str(out)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return torch.load(out, weights_only=True)


@pytest.fixture(scope="module")
def one_process_run(tmp_path_factory):
    return run(tmp_path_factory.mktemp("one"), 1)


@pytest.fixture
def one_process(one_process_run):
    return copy.deepcopy(one_process_run)


def test_losses_gradients_and_centres_equal_those_of_one_process(tmp_path, one_process):
    two = run(tmp_path, 2)
    assert two["steps"][0]["loss"] != two["steps"][1]["loss"]
    for mine, theirs in zip(two["steps"], one_process["steps"], strict=True):
        assert mine.pop("loss") == pytest.approx(theirs.pop("loss"), rel=1e-6)  # logged in float32
    torch.testing.assert_close(two, one_process, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_two_halves_of_a_batch_accumulate_to_other_centres_but_finite_gradients(tmp_path, one_process):
    halves = run(tmp_path, 1, accum_iter=2)
    first, whole = halves["steps"][0], one_process["steps"][0]
    assert abs(first["loss"] - whole["loss"]) < 0.05 * whole["loss"]
    assert all(torch.isfinite(g).all() for g in first["grads"].values())
