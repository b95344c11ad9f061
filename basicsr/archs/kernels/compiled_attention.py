"""The C++ attention kernel (`gathered_attention.cpp`): compiled on first use, with its gradients. CPU, float32.

It is compiled for the widths of a network in about two seconds, and kept in the user's cache folder. Its sums do not
depend on the number of threads.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from basicsr.archs.layers.windows import Heads, PositionBias, Windows
from basicsr.engine.atomic import atomic_path

logger = logging.getLogger("basicsr")
SOURCE = Path(__file__).with_name("gathered_attention.cpp")
FLAGS = (
    "-O3",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-pthread",
)
THREADING = ("-fopenmp",), ()  # the first that the compiler supports; OpenMP shares PyTorch's threads
LOG2_E = 1.44269504088896  # the kernel's scores are in units of log2
LANES = 16  # queries that the kernel takes at a time
STATS = 4  # numbers that the kernel keeps of each query and head for its backward pass


def compiled_attention(
    qkv: Tensor,
    windows: Windows,
    heads: Heads,
    global_kv: Tensor | None,
    scatter: bool,
    bias: PositionBias | None,
    factor: Tensor | None,
) -> Tensor | None:
    """Return `gathered_attention` by the kernel, in the dtype of `qkv`; None where the kernel is not available."""
    library = kernel_library(heads.qk, heads.v)
    if library is None:
        return None
    if global_kv is None:
        global_kv = qkv.new_empty(heads.number, 0, heads.qk + heads.v)
    numbers = bias.numbers.float() if bias is not None else None
    arguments = bias, windows, heads, scatter, library
    return _Kernel.apply(qkv.float(), global_kv.float(), numbers, factor, *arguments).to(qkv.dtype)


class _Layout(ctypes.Structure):
    """The shapes of a call, as the kernel declares them."""

    _fields_ = (
        ("rows", ctypes.c_void_p),
        ("images", ctypes.c_int64),
        ("windows", ctypes.c_int64),
        ("places", ctypes.c_int64),
        ("step", ctypes.c_int64),
        ("queries", ctypes.c_int),
        ("keys", ctypes.c_int),
        ("valid", ctypes.c_int64),
        ("globals", ctypes.c_int),
        ("heads", ctypes.c_int),
        ("scale", ctypes.c_float),
        ("scatter", ctypes.c_int),
        ("bias", ctypes.c_void_p),
        ("labels", ctypes.c_void_p),
        ("uniform", ctypes.c_int64),
    )


class _Kernel(torch.autograd.Function):
    """The compiled attention and its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        global_kv: Tensor,
        numbers: Tensor | None,
        factor: Tensor | None,
        bias: PositionBias | None,
        windows: Windows,
        heads: Heads,
        scatter: bool,
        library: ctypes.CDLL,
    ) -> Tensor:
        """Shapes and arguments of `gathered_attention`; `numbers` are those of `bias`."""
        qkv, global_kv, rows = qkv.contiguous(), global_kv.contiguous(), windows.rows.contiguous()
        labels = bias.labels.contiguous() if bias is not None and bias.labels is not None else None
        turned = _turned(numbers) if numbers is not None else None
        scale = heads.qk**-0.5 * (float(factor) if factor is not None else 1)
        layout = _Layout(
            rows.data_ptr(),
            len(rows),
            windows.number,
            rows.shape[1],
            windows.step,
            windows.queries,
            windows.keys,
            windows.valid,
            global_kv.shape[1],
            heads.number,
            scale,
            scatter,
            *_pointers(turned, labels),
            bias.uniform if bias is not None else 0,
        )
        length = len(qkv) if scatter else len(rows) * windows.number * windows.queries
        out = qkv.new_empty(length, heads.number * heads.v)
        # For the backward pass: the sums of both softmaxes, and the window's part of the output.
        needed = any(ctx.needs_input_grad)
        stats = qkv.new_empty(length, heads.number, STATS) if needed else None
        window_out = torch.empty_like(out) if needed and global_kv.shape[1] > 0 else None
        library.forward(layout, *_pointers(qkv, global_kv, out, window_out, stats), torch.get_num_threads())
        if needed:
            ctx.save_for_backward(qkv, global_kv, rows, out, window_out, stats, turned, labels, factor)
            ctx.layout, ctx.library, ctx.heads, ctx.queries = layout, library, heads, windows.queries
            ctx.each_row_once = scatter and windows.step == windows.keys
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys and values, of the global ones, of the bias's numbers and of the factor."""
        qkv, global_kv, rows, out, window_out, stats, turned, labels, factor = ctx.saved_tensors
        grad_qkv = torch.empty_like(qkv) if ctx.each_row_once else torch.zeros_like(qkv)
        grad_out = grads[0].contiguous()
        grad_global = global_kv.new_zeros(len(rows), *global_kv.shape)
        grad_turned = turned.new_zeros(len(rows), *turned.shape) if turned is not None else None
        # Checkpointing recomputes tensors, at other addresses.
        ctx.layout.rows, ctx.layout.bias, ctx.layout.labels = _pointers(rows, turned, labels)
        pointers = _pointers(
            qkv,
            global_kv,
            out,
            window_out,
            stats,
            grad_out,
            grad_qkv,
            grad_global,
            grad_turned if ctx.needs_input_grad[2] else None,
        )
        ctx.library.backward(ctx.layout, *pointers, torch.get_num_threads())
        grad_numbers = None
        if grad_turned is not None and ctx.needs_input_grad[2]:
            grad_numbers = grad_turned.sum(dim=0)[..., : ctx.queries].mT
        grad_factor = None
        if ctx.needs_input_grad[3]:  # in the scores it is a factor of the queries
            queries = slice(ctx.heads.number * ctx.heads.qk)
            grad_factor = (qkv[:, queries] * grad_qkv[:, queries]).sum() / factor
        return grad_qkv, grad_global.sum(dim=0), grad_numbers, grad_factor, None, None, None, None, None


def _turned(numbers: Tensor) -> Tensor:
    """Return numbers (heads, queries, keys) as the kernel reads them: (heads, keys, queries and zeros), in log2."""
    queries = numbers.shape[1]
    turned = numbers.new_zeros(len(numbers), numbers.shape[2], -(-queries // LANES) * LANES)
    turned[..., :queries] = numbers.mT
    return turned.mul_(LOG2_E)


def _pointers(*tensors: Tensor | None) -> list[int | None]:
    """Return the addresses of tensors."""
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]


@functools.cache
def kernel_library(qk: int, v: int) -> ctypes.CDLL | None:
    """Return the kernel compiled for heads of these widths; None where it is not available, which is logged once."""
    try:
        library = ctypes.CDLL(str(_compiled(qk, v)))
    except (OSError, subprocess.SubprocessError) as error:
        detail = str(getattr(error, "stderr", None) or error).strip().splitlines()
        logger.info("No compiled attention kernel, using plain PyTorch (%s)", detail[-1] if detail else error)
        return None
    library.forward.restype = library.backward.restype = None
    library.forward.argtypes = [_Layout, *[ctypes.c_void_p] * 5, ctypes.c_int]
    library.backward.argtypes = [_Layout, *[ctypes.c_void_p] * 9, ctypes.c_int]
    return library


def _compiled(qk: int, v: int) -> Path:
    """Return the path of the shared library, compiled unless it is cached.

    Raises:
        OSError: no compiler, or the cache folder cannot be written.
        subprocess.SubprocessError: the compiler fails.
    """
    compiler = next((c for c in (os.environ.get("CXX"), "c++", "g++", "clang++") if c and shutil.which(c)), None)
    if compiler is None:
        raise OSError("no C++ compiler found")
    widths = (f"-DDQ={qk}", f"-DDV={v}")
    key = "\n".join([SOURCE.read_text(encoding="utf-8"), *FLAGS, *widths, compiler, platform.platform(), _processor()])
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "basicsr"
    target = folder / f"gathered_attention_{qk}_{v}_{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if not target.exists():
        with atomic_path(target) as temporary:  # other processes may compile it at the same time
            for threading in THREADING:
                command = [compiler, *FLAGS, *threading, "-march=native", *widths, "-o", str(temporary), str(SOURCE)]
                result = subprocess.run(command, check=not threading, capture_output=True, text=True, timeout=120)
                if result.returncode == 0:
                    break
    return target


def _processor() -> str:
    """Return the processor's features, for different machines may share a cache folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
