import os
import socket
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from basicsr.engine.distributed import (
    all_reduce_sum,
    gather_objects,
    get_dist_info,
    init_dist,
    leave_process_group,
    master_only,
    reduce_mean_dict,
)
from basicsr.errors import OptionError


@master_only
def where_am_i():
    """Say the rank."""
    return get_dist_info()[0]


def test_alone_everything_is_the_identity():
    init_dist("none")
    x = torch.rand(3, requires_grad=True)
    assert get_dist_info() == (0, 1)
    assert all_reduce_sum(x) is x
    assert gather_objects({"a": 1}) == [{"a": 1}]
    assert where_am_i() == 0 and where_am_i.__doc__ == "Say the rank."
    reduced = reduce_mean_dict({"l_pix": x.sum()})
    assert reduced["l_pix"] == x.sum() and not reduced["l_pix"].requires_grad


def test_init_dist_says_what_is_missing(monkeypatch):
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name)
    with pytest.raises(OptionError, match=r"launcher: pytorch needs the variables RANK, .*start with torchrun"):
        init_dist("pytorch")
    with pytest.raises(OptionError, match=r"launcher: slurm needs the variables SLURM_PROCID, .*start with srun"):
        init_dist("slurm")
    with pytest.raises(OptionError, match="must be none, pytorch or slurm, got 'mpi'"):
        init_dist("mpi")


def test_slurm_starts_a_group(monkeypatch, tmp_path):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho localhost\necho other\n")
    scontrol.chmod(0o755)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    os.environ.pop("MASTER_ADDR", None)
    os.environ |= {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0", "SLURM_NODELIST": "localhost,other"}
    os.environ["PATH"] = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    seen = {}
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **how: seen.update(backend=backend, **how))
    init_dist("slurm", backend="gloo", port=29555, timeout=60)
    assert seen == {"backend": "gloo", "init_method": "env://", "timeout": timedelta(seconds=60)}
    expected = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29555"}
    assert expected.items() <= os.environ.items()


def check_two_processes(rank, port):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    init_dist("pytorch", backend="gloo")
    assert get_dist_info() == (rank, 2)
    assert where_am_i() == (0 if rank == 0 else None)
    assert gather_objects(("rank", rank)) == [("rank", 0), ("rank", 1)]

    losses = {"b": torch.tensor(4.0 * rank), "a": torch.tensor(1.0 + rank, requires_grad=True)}
    reduced = reduce_mean_dict(dict(reversed(losses.items())) if rank else losses)
    assert {name: loss.item() for name, loss in reduced.items()} == {"a": 1.5, "b": 2.0}

    # The loss of rank r is (r + 1) * sum((x0 + x1)^2): over both, the gradient in each x is 3 * 2 * (x0 + x1).
    x = torch.tensor([1.0 + rank, 5.0, -2.0 * rank]).requires_grad_()
    total = all_reduce_sum(x)
    assert total.tolist() == [3.0, 10.0, -2.0]
    ((rank + 1) * total.square().sum()).backward()
    assert x.grad.tolist() == [18.0, 60.0, -12.0]
    assert x.tolist() == [1.0 + rank, 5.0, -2.0 * rank]

    view = torch.arange(6.0).view(2, 3).t().requires_grad_()  # not contiguous, and an expanded gradient comes back
    all_reduce_sum(view).sum().backward()
    assert torch.equal(view.grad, torch.full((3, 2), 2.0))

    model = SimpleNamespace(net=nn.parallel.DistributedDataParallel(nn.Linear(2, 1)))
    model.itself = model  # as `BaseModel` and its training step refer to each other
    model.net(torch.ones(1, 2)).sum().backward()
    assert not sys.platform.startswith("linux") or any("gloo" in name for name in thread_names())
    del model
    leave_process_group()
    assert not any("gloo" in name for name in thread_names())  # one would abort the process when Python exits


def thread_names():
    """Return the names of this process's threads, C++ ones too, on Linux."""
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


@pytest.mark.skipif(torch.__version__ < (2, 10), reason="gloo of PyTorch 2.6 may hang when the group is destroyed")
def test_two_processes(monkeypatch, pytestconfig):
    monkeypatch.syspath_prepend(pytestconfig.rootpath)  # where the new processes find this module
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    mp.spawn(check_two_processes, args=(port,), nprocs=2)
