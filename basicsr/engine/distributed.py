"""Collective operations of several processes. With one process, each function here is a no-op."""

import functools
import gc
import importlib
import os
import subprocess
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Literal, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from basicsr.errors import OptionError

P = ParamSpec("P")
T = TypeVar("T")
Launcher = Literal["none", "pytorch", "slurm"]
TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def init_dist(launcher: Launcher, backend: str | None = None, port: int | None = None, timeout: float = 1800.0) -> None:
    """Join the process group that the launcher's environment variables describe, and select this process's GPU.

    Args:
        launcher: "none" does nothing; "pytorch" is torchrun; "slurm" is srun.
        backend: None: nccl with CUDA, gloo without.
        port: TCP port of rank 0, for Slurm; None: `MASTER_PORT`, or 29500.
        timeout: seconds that a collective operation waits for the other processes before it fails.

    Raises:
        OptionError: for an unknown launcher, or when its variables are not set.
    """
    if launcher == "none":
        return
    if launcher not in ("pytorch", "slurm"):
        raise OptionError(f"launcher: must be none, pytorch or slurm, got {launcher!r}")
    if launcher == "slurm":
        os.environ.update(_slurm_environ(os.environ, port))
    missing = [name for name in TORCHRUN_VARIABLES if name not in os.environ]
    if missing:
        raise OptionError(f"launcher: pytorch needs the variables {', '.join(missing)}; start with torchrun")
    backend = backend or ("nccl" if torch.cuda.is_available() else "gloo")
    if "nccl" in backend:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # DDP imports this module, whose functions have the default group as a default argument. Imported after the start of
    # the group, they would keep it, and its threads, until Python exits; see `leave_process_group`.
    importlib.import_module("torch.distributed.nn.functional")

    dist.init_process_group(backend, init_method="env://", timeout=timedelta(seconds=timeout))


def leave_process_group() -> None:
    """Destroy the process group, if there is one, and end its threads.

    The model refers to itself in circles and to the process group. Without a garbage collection the threads of the
    group would live on until Python has exited, and abort one in ten processes there ("terminate called without an
    active exception").
    """
    if dist.is_available() and dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()


def get_dist_info() -> tuple[int, int]:
    """Return the rank of this process and the number of processes; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def master_only(function: Callable[P, T]) -> Callable[P, T | None]:
    """Make a function run in rank 0 only and return None in the other processes."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T | None:
        return function(*args, **kwargs) if get_dist_info()[0] == 0 else None

    return wrapper


class _AllReduceSum(torch.autograd.Function):
    """y = sum of x over ranks. Each rank's loss depends on every x through y, so dL/dx sums dL/dy over ranks too."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _AllReduceSum.apply(grads[0])


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Return the sum of `tensor` over all processes; its gradient is summed over them too.

    Every process must call it, and run backward through it, the same number of times.
    """
    return _AllReduceSum.apply(tensor) if get_dist_info()[1] > 1 else tensor


def gather_objects(obj: T) -> list[T]:
    """Return the objects of all processes, by rank, in every process. They are pickled."""
    world_size = get_dist_info()[1]
    if world_size == 1:
        return [obj]
    gathered: list[Any] = [None] * world_size
    dist.all_gather_object(gathered, obj)
    return gathered


@torch.no_grad()
def reduce_mean_dict(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the mean over processes of each scalar tensor, detached and on its device, without waiting for a GPU.

    Every process must pass the same keys.
    """
    world_size = get_dist_info()[1]
    if world_size == 1 or not losses:
        return {name: loss.detach() for name, loss in losses.items()}
    names = sorted(losses)  # the order of insertion may differ between processes
    total = torch.stack([losses[name].detach().float() for name in names])
    dist.all_reduce(total)
    return dict(zip(names, total / world_size, strict=True))


def _slurm_environ(environ: Mapping[str, str], port: int | None) -> dict[str, str]:
    """Return torchrun's variables, made from those of srun."""
    names = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
    missing = [name for name in (*names.values(), "SLURM_NODELIST") if name not in environ]
    if missing:
        raise OptionError(f"launcher: slurm needs the variables {', '.join(missing)}; start with srun")
    address = environ.get("MASTER_ADDR")
    if address is None:
        command = ["scontrol", "show", "hostnames", environ["SLURM_NODELIST"]]
        address = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    translated = {key: environ[name] for key, name in names.items()}
    return {**translated, "MASTER_ADDR": address, "MASTER_PORT": str(port or environ.get("MASTER_PORT", 29500))}
