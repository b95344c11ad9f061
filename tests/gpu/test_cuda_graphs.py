"""A training step replayed as a CUDA graph gives the weights of the plain step."""

import pytest
import torch
from gpu.training import atd, catanet, logs, train_in_subprocess, weights, with_device

pytestmark = pytest.mark.gpu
LENGTH = 12  # iterations, so that most of them are replayed
CHANGES = {
    "float32": {},
    "bfloat16": {"amp": "bf16"},
    "a rate that changes": {"warmup_iter": 3, "scheduler": {"type": "MultiStepLR", "milestones": [5, 9]}},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("kind", [catanet, atd])
def test_weights_are_the_same_with_and_without_a_graph(kind, changes, tmp_path):
    values = with_device("cuda", kind(tmp_path))
    runs = [
        train_in_subprocess(tmp_path / str(graph), {
            **values, "train": {**values["train"], **changes, "total_iter": LENGTH, "cuda_graph": graph}
        })
        for graph in (True, False)
    ]  # fmt: skip
    assert ["Training steps run as a CUDA graph" in logs(run) for run in runs] == [True, False]
    for key in ("params", "params_ema"):
        with_graph, without = (weights(run, key) for run in runs)
        assert all(torch.equal(with_graph[name], value) for name, value in without.items())
