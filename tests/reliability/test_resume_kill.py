"""A training process that SIGKILL ends again and again ends where it would have ended undisturbed, bit for bit.

`BASICSR_FULL=1` (`make fuzz`) kills each kind of run 20 times; otherwise a few kinds are killed a few times.
"""

import os
import time
from collections import Counter

import pytest
from reliability.runs import Run, options, pruning, seeded

FULL = os.environ.get("BASICSR_FULL") == "1"
MUON = {"type": "MUON", "lr": [2e-3, 1e-3]}
EVERYTHING = {
    "datasets": {"train": {"batch_size_per_gpu": 1, "num_worker_per_gpu": 2, "dataset_enlarge_ratio": 2}},
    "train": {
        "ema_decay": 0.9,
        "accum_iter": 2,
        "amp": "bf16",
        "optim_g": MUON,
        "warmup_iter": 3,
        "grad_clip": 0.05,
        "scheduler": {"type": "MultiStepLR", "milestones": [6]},
    },
}
KINDS = {
    "everything": EVERYTHING,
    "ema": {"train": {"ema_decay": 0.9}},
    "accumulation": {"datasets": {"train": {"batch_size_per_gpu": 1}}, "train": {"accum_iter": 2}},
    "bf16": {"train": {"amp": "bf16"}},
    "muon": {"train": {"optim_g": MUON}},
    "workers": {"datasets": {"train": {"num_worker_per_gpu": 2}}},
    "two processes": {"datasets": {"train": {"batch_size_per_gpu": 1}}, "train": {"ema_decay": 0.9}},
    "two processes, everything": EVERYTHING,
    "pruning": {},
}
QUICK = {"pruning": 1, "everything": 2, "two processes": 1}  # kills


@pytest.mark.parametrize(
    "kind", KINDS if FULL else [pytest.param(kind, marks=pytest.mark.slow if k else ()) for k, kind in enumerate(QUICK)]
)
def test_killed_runs_end_like_undisturbed_ones(kind, tmp_path):
    kills = 20 if FULL else QUICK[kind]
    total_iter = 2 * kills + 6
    changes = KINDS[kind] | (pruning(tmp_path, total_iter) if kind == "pruning" else {})
    values = options(tmp_path, total_iter, **changes)
    processes = 2 if kind.startswith("two") else 1
    begin = time.monotonic()
    rng = seeded(os.environ.get("BASICSR_SEED", 0), kind)
    hit = Counter()
    with (
        Run(tmp_path / "straight", values, processes) as straight,
        Run(tmp_path / "killed", values, processes, slow_write=0.1) as killed,
    ):
        straight.finish()
        for k in range(kills):
            found = killed.kill_at_random(rng, total_iter, write=k % 3 == 0)
            if found is None:
                break
            hit[found] += 1
        killed.slow_write = 0
        killed.finish()
        print(f"{kind}: {sum(hit.values())} kills ({dict(hit)}), {time.monotonic() - begin:.0f} s")
        assert sum(hit.values()) >= 0.75 * kills, hit  # else the run ended too early to be a test
        assert hit["write"] >= 1
        assert killed.result() == straight.result()
        assert not killed.is_writing()  # nothing half written is left
