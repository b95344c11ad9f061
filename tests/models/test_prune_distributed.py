"""Two gloo processes with half the batch each search and distil like one process with the whole batch, in float64."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from models import prune_ddp_worker
from models.prunable_nets import TINY, catanet

from basicsr.config.load import load_options, resolve

pytestmark = pytest.mark.slow
WORKER = Path(prune_ddp_worker.__file__)
NET = {**TINY, "dim": 8, "qk_dim": 4, "mlp_dim": 12, "heads": 2, "block_num": 4, "num_tokens": [4, 8, 4, 8]}
CLOSE = {"rtol": 1e-8, "atol": 1e-10}  # the order in which gradients and centres are added up
NAMES = ("search", "parts", "finetune")


def options(name, folder, weights):
    """A search with uniform and learned draws and all phases, the same with two masks a step, and fine-tuning."""
    values = {
        "name": name, "model_type": "PruneDistillModel", "scale": 2, "num_gpu": 0,
        "datasets": {"train": {"type": "PairedImageDataset", "dataroot_gt": "unused", "batch_size_per_gpu": 2}},
        "network_g": NET, "network_t": NET,
        "path": {"pretrain_network_g": weights, "pretrain_network_t": weights, "experiments_root": str(folder)},
        "prune": {"warmup_iter": 1, "search_iter": 4, "settle_iter": 1, "eps_uniform": 1.0, "recalib_iter": 3},
        "budget": {"blocks": 2, "ref_size": [16, 16]},
        "train": {
            "total_iter": 6, "grad_clip": 0.05, "optim_g": {"type": "Adam", "lr": 1e-3},
            "optim_m": {"type": "Adam", "lr": 0.1}, "pixel_opt": {"type": "L1Loss"},
        },
    }  # fmt: skip
    if name == "parts":
        values["prune"]["mask_chunks"] = 2
    if name == "finetune":
        values["network_g"] = {**NET, "block_num": 2, "num_tokens": [8, 4], "tail": "direct"}
        values["path"]["pretrain_network_g"] = None
        values["prune"] = {"stage": "finetune", "kept": [1, 2], "tail_fit": 1, "tail_warmup_iter": 2}
        values["kd"] = {"sa": {"weight": 0.1}, "feat": {"weight": 0.1, "adapter": True, "sigma": 1e6}}
        values["train"]["total_iter"] = 3
    path = folder / f"{name}.yml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "net.pth"
    torch.save({"params": catanet(**NET).state_dict()}, path)
    return str(path)


@pytest.fixture(scope="module")
def two(weights, tmp_path_factory):
    """What both ranks recorded, and their folder."""
    folder = tmp_path_factory.mktemp("two")
    files = [str(options(name, folder, weights)) for name in NAMES]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, str(WORKER), str(folder / "out"), *files], env=env, capture_output=True, text=True, timeout=480
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"out.{rank}", weights_only=True) for rank in (0, 1)], folder


@pytest.fixture(scope="module")
def one(weights, tmp_path_factory):
    """The same of one process, this one, whose weights are never left out of a forward, and its folder."""
    folder = tmp_path_factory.mktemp("one")
    result = {}
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        prune_ddp_worker.shorten(patch.setattr)
        try:
            for name in NAMES:
                opt = resolve(load_options(options(name, folder, weights), is_train=True))
                result[name] = copy.deepcopy(prune_ddp_worker.train(opt)[0])
        finally:
            torch.set_default_dtype(torch.float32)
    return result, folder


@pytest.mark.parametrize("name", NAMES)
def test_both_ranks_hold_the_same(two, name):
    (first, second), _ = two
    assert first[name]["net"].keys() == second[name]["net"].keys()
    torch.testing.assert_close(second[name], first[name], rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_masks_losses_gradients_and_weights_are_those_of_one_process(two, one, name):
    mine, theirs = two[0][0][name], one[0][name]
    for it, (step, expected) in enumerate(zip(mine["steps"], theirs["steps"], strict=True), 1):
        assert step["masks"] == expected["masks"], it
        assert step["losses"] == pytest.approx(expected["losses"], rel=1e-6), it  # logged in float32
        for part in ("logits", "gradients"):
            torch.testing.assert_close(step[part], expected[part], **CLOSE, msg=lambda text, it=it: f"{it}: {text}")
    torch.testing.assert_close(mine["net"], theirs["net"], **CLOSE)
    torch.testing.assert_close(mine["adapters"], theirs["adapters"], **CLOSE)


def test_the_search_had_draws_of_all_kinds(one):
    """Otherwise the tests above would say little."""
    search = one[0]["search"]["steps"]
    learning = [any(name.startswith("sampler") for name in step["gradients"]) for step in search]
    assert learning[0] is learning[-1] is False
    assert set(learning[1:-1]) == {True, False}
    assert len({str(step["masks"]) for step in search}) > 2
    assert {len(step["masks"]) for step in one[0]["parts"]["steps"][:-1]} == {2}


@pytest.mark.parametrize("name", ["search", "parts"])
def test_the_cut_networks_are_equal(two, one, name):
    mine, theirs = (
        torch.load(folder / name / "compact" / "net_g_xs.pth", weights_only=True) for _, folder in (two, one)
    )
    assert mine["meta"]["kept"] == theirs["meta"]["kept"]
    torch.testing.assert_close(mine["params"], theirs["params"], **CLOSE)


def test_ranks_that_disagree_end_the_run(two):
    for result in two[0]:
        message = result["disagreement"]
        assert message.startswith("iteration 8: the processes disagree on (mask, sum of logits): [([")
        masks = message.partition(": [")[2]
        assert masks.count("([") == 2
