"""Attention in windows whose rows are gathered by index: a compiled kernel, or PyTorch where there is no compiler.

CATANet attends in sub-groups of sorted tokens and in overlapping patches, ATD in sub-groups and in shifted windows. All
are windows: lists of rows of one matrix of queries, keys and values. Gathering inside the attention saves the copies
(an overlapping patch grid holds every token 1.2 to 1.5 times, a sub-group's keys twice), and heads may be as wide as
they are.

The kernel (`kernels/gathered_attention.cpp`, forward and backward, CPU, float32) is compiled for the widths of a
network when it is first used, in about two seconds, and kept in the user's cache folder. `BASICSR_KERNELS=0` turns it
off. Its sums do not depend on the number of threads.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from basicsr.archs.graph_form import GraphForm, active_form

logger = logging.getLogger("basicsr")
SOURCE = Path(__file__).with_name("kernels") / "gathered_attention.cpp"
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
THREADING = ("-fopenmp",), ()  # what the compiler has of these; OpenMP shares PyTorch's threads
FAR = -100.0  # added to the score of two places with different labels, as in Swin Transformer; the kernel has it too
LOG2_E = 1.44269504088896  # the kernel's scores are in units of log2
LANES = 16  # queries that the kernel takes at a time
STATS = 4  # numbers that the kernel keeps of each query and head for its backward pass
PLAIN_PLACES = 1 << 16  # places whose rows the plain path gathers at a time in evaluation


class Windows(NamedTuple):
    """Windows over the rows of a matrix, the same number in every image.

    Window `w` of an image has the queries `rows[w*step : w*step + queries]` and the keys
    `rows[w*step : w*step + keys]`, queries <= keys. Queries at places `valid` and later are padding.
    """

    rows: Tensor  # (images, places) int32: a row of the matrix at every place; images share no rows
    number: int  # of windows in an image
    step: int
    queries: int
    keys: int
    valid: int
    place_of: Tensor | None = None  # (rows,) int32: the place of each row among the queries, in graph form


class Heads(NamedTuple):
    """Widths of an attention whose query/key heads and value heads may differ."""

    number: int
    qk: int
    v: int

    @property
    def columns(self) -> int:
        """Columns of the matrix: all queries, then all keys, then all values."""
        return self.number * (2 * self.qk + self.v)


class PositionBias(NamedTuple):
    """What is added to the scores of windows whose queries are their keys."""

    numbers: Tensor  # (heads, queries, keys)
    labels: Tensor | None = None  # (windows, keys) int32: between places with different labels `FAR` is added, too
    uniform: int = 0  # windows at the beginning whose labels are all the same


def gathered_attention(qkv: Tensor, windows: Windows, heads: Heads, global_kv: Tensor | None = None,
                       scatter: bool = False, bias: PositionBias | None = None,
                       factor: Tensor | None = None) -> Tensor:  # fmt: skip
    """Softmax attention in every window, scale 1/sqrt(qk).

    Args:
        qkv: (rows, heads.columns).
        global_kv: (heads, T, qk + v), keys and values that every query attends to as well, in a softmax of its own that
            is added to the window's.
        scatter: the output of a query goes to the row it came from; every row must be the query of one window, and
            `step` equal to `queries`.
        bias: added to the scores before the softmax; its numbers may need a gradient.
        factor: on the scores, a single number above 0, beside the scale; may need a gradient.

    Returns:
        (images * windows * queries, heads * v), window after window; with `scatter` (rows, heads * v).
    """
    if active_form() is not None:
        numbers, labels, _ = bias or (None, None, 0)
        apart = (labels[:, None, :, None] != labels[:, None, None]).float() * FAR if labels is not None else None
        return graph_attention(qkv, windows, heads, global_kv, scatter, numbers, apart, factor)
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting() and not torch.is_grad_enabled():
        numbers, labels, uniform = bias or (None, None, 0)
        sizes = list(windows[1:6]), list(heads)
        return _opaque(qkv, windows.rows, global_kv, numbers, labels, uniform, factor, *sizes, scatter)
    dtype = qkv.dtype
    # Subclasses of Tensor, such as those of shape inference, may have no memory that a kernel could read.
    is_plain = type(qkv) is Tensor and qkv.device.type == "cpu" and not torch.compiler.is_compiling()
    if is_plain and dtype in (torch.float32, torch.bfloat16):
        library = _library(heads.qk, heads.v)
        if library is not None:
            keys = (
                global_kv.float()
                if global_kv is not None
                else qkv.new_empty(heads.number, 0, heads.qk + heads.v).float()
            )
            numbers = bias.numbers.float() if bias is not None else None
            arguments = bias, windows, heads, scatter, library
            return _Kernel.apply(qkv.float(), keys, numbers, factor, *arguments).to(dtype)
    return _plain(qkv, windows, heads, global_kv, scatter, bias, factor)


def graph_attention(
    qkv: Tensor, windows: Windows, heads: Heads, global_kv: Tensor | None = None, scatter: bool = False,
    bias_hQK: Tensor | None = None, apart: Tensor | None = None, factor: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """`gathered_attention` of one image in the form of `graph_form.py`; windows that overlap have `step` = `queries`.

    Args:
        bias_hQK: added to the scores.
        apart: added, too, (windows, 1, queries, keys).
    """
    form = active_form()
    if form is None:
        raise RuntimeError("graph_attention: works inside graph_form only")
    number, step, queries, keys = windows[1:5]
    q, k, v = qkv.split([heads.number * width for width in (heads.qk, heads.qk, heads.v)], dim=1)
    q = q * heads.qk**-0.5 if factor is None else q * (factor.to(q.dtype).view(1, 1) * heads.qk**-0.5)
    rows = windows.rows.flatten()
    query_rows = key_rows = rows
    if (step, keys) != (queries, queries):
        query_rows = _rows_in_graph(form, rows, number, step, queries)
        key_rows = _rows_in_graph(form, rows, number, step, keys)
    q_WhQD = q.index_select(0, query_rows).view(number, queries, heads.number, heads.qk).transpose(1, 2)
    k_WhDK = k.index_select(0, key_rows).view(number, keys, heads.number, heads.qk).permute(0, 2, 3, 1)
    v_WhKD = v.index_select(0, key_rows).view(number, keys, heads.number, heads.v).transpose(1, 2)
    scores = q_WhQD @ k_WhDK
    if bias_hQK is not None:
        scores = scores + bias_hQK.to(scores.dtype)
    if apart is not None:
        scores = scores + apart.to(scores.dtype)
    out = (scores.softmax(dim=-1) @ v_WhKD).transpose(1, 2).reshape(number * queries, heads.number * heads.v)
    if scatter:
        if windows.place_of is None:
            raise RuntimeError("graph_attention: to scatter needs windows with place_of")
        out = out.index_select(0, windows.place_of)
    if global_kv is None:
        return out
    # Every query sees the same keys, so windows do not matter: one product for each head.
    gk, gv = global_kv.to(q.dtype).split([heads.qk, heads.v], dim=-1)
    q_hND = q.unflatten(1, (heads.number, heads.qk)).transpose(0, 1)
    to_all = ((q_hND @ gk.mT).softmax(dim=-1) @ gv).transpose(0, 1).flatten(1)
    return out + (to_all if scatter else to_all.index_select(0, query_rows))


def _rows_in_graph(form: GraphForm, rows: Tensor, number: int, step: int, count: int) -> Tensor:
    """The rows of `count` places of every window, one window after the other."""

    def places() -> Tensor:
        first, after = (torch.arange(n, dtype=torch.int32, device=rows.device) for n in (number, count))
        return ((first * step)[:, None] + after).flatten()

    return rows.index_select(0, form.plan(("places", number, step, count), places))


@torch.library.custom_op("basicsr::gathered_attention", mutates_args=())
def _opaque(
    qkv: Tensor, rows: Tensor, global_kv: Tensor | None, numbers: Tensor | None, labels: Tensor | None, uniform: int,
    factor: Tensor | None, windows: list[int], heads: list[int], scatter: bool,
) -> Tensor:  # fmt: skip
    """`gathered_attention` as one node of a compiled graph, which cannot look into the kernel."""
    bias = PositionBias(numbers, labels, uniform) if numbers is not None else None
    number, step, queries, keys, valid = windows
    at = Windows(rows, number, step, queries, keys, valid)
    return gathered_attention(qkv, at, Heads(*heads), global_kv, scatter, bias, factor)


@_opaque.register_fake
def _(
    qkv: Tensor, rows: Tensor, global_kv: Tensor | None, numbers: Tensor | None, labels: Tensor | None, uniform: int,
    factor: Tensor | None, windows: list[int], heads: list[int], scatter: bool,
) -> Tensor:  # fmt: skip
    number, _, queries, _, _ = windows
    length = qkv.shape[0] if scatter else rows.shape[0] * number * queries
    return qkv.new_empty(length, heads[0] * heads[2])


class _Layout(ctypes.Structure):
    """The shapes of a call, as the kernel declares them."""

    _fields_ = (
        ("rows", ctypes.c_void_p), ("images", ctypes.c_int64), ("windows", ctypes.c_int64), ("places", ctypes.c_int64),
        ("step", ctypes.c_int64), ("queries", ctypes.c_int), ("keys", ctypes.c_int), ("valid", ctypes.c_int64),
        ("globals", ctypes.c_int), ("heads", ctypes.c_int), ("scale", ctypes.c_float), ("scatter", ctypes.c_int),
        ("bias", ctypes.c_void_p), ("labels", ctypes.c_void_p), ("uniform", ctypes.c_int64),
    )  # fmt: skip


class _Kernel(torch.autograd.Function):
    """The compiled attention and its gradients."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, global_kv: Tensor, numbers: Tensor | None, factor: Tensor | None,
                bias: PositionBias | None, windows: Windows, heads: Heads, scatter: bool,
                library: ctypes.CDLL) -> Tensor:  # fmt: skip
        """Shapes and arguments of `gathered_attention`; `numbers` are those of `bias`."""
        qkv, global_kv, rows = qkv.contiguous(), global_kv.contiguous(), windows.rows.contiguous()
        labels = bias.labels.contiguous() if bias is not None and bias.labels is not None else None
        turned = _turned(numbers) if numbers is not None else None
        scale = heads.qk**-0.5 * (float(factor) if factor is not None else 1)
        layout = _Layout(
            rows.data_ptr(), len(rows), windows.number, rows.shape[1], windows.step, windows.queries,
            windows.keys, windows.valid, global_kv.shape[1], heads.number, scale, scatter,
            *_pointers(turned, labels), bias.uniform if bias is not None else 0,
        )  # fmt: skip
        length = len(qkv) if scatter else len(rows) * windows.number * windows.queries
        out = qkv.new_empty(length, heads.number * heads.v)
        # What the backward pass needs: the sums of both softmaxes, and the window's part of the output.
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
        # Checkpointing hands over tensors computed again, at other addresses.
        ctx.layout.rows, ctx.layout.bias, ctx.layout.labels = _pointers(rows, turned, labels)
        pointers = _pointers(
            qkv, global_kv, out, window_out, stats, grad_out, grad_qkv, grad_global,
            grad_turned if ctx.needs_input_grad[2] else None,
        )  # fmt: skip
        ctx.library.backward(ctx.layout, *pointers, torch.get_num_threads())
        grad_numbers = None
        if grad_turned is not None and ctx.needs_input_grad[2]:
            grad_numbers = grad_turned.sum(dim=0)[..., : ctx.queries].mT
        grad_factor = None
        if ctx.needs_input_grad[3]:  # scores know the factor only as one of the queries
            queries = slice(ctx.heads.number * ctx.heads.qk)
            grad_factor = (qkv[:, queries] * grad_qkv[:, queries]).sum() / factor
        return grad_qkv, grad_global.sum(dim=0), grad_numbers, grad_factor, None, None, None, None, None


def _turned(numbers: Tensor) -> Tensor:
    """(heads, queries, keys) as the kernel wants them: (heads, keys, queries and zeros), in units of log2."""
    queries = numbers.shape[1]
    turned = numbers.new_zeros(len(numbers), numbers.shape[2], -(-queries // LANES) * LANES)
    turned[..., :queries] = numbers.mT
    return turned.mul_(LOG2_E)


def _pointers(*tensors: Tensor | None) -> list[int | None]:
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]


def _plain(
    qkv: Tensor, windows: Windows, heads: Heads, global_kv: Tensor | None, scatter: bool,
    bias: PositionBias | None = None, factor: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The same from public calls, with gradients; in evaluation in pieces, so that memory stays bounded."""
    at = torch.arange(windows.number, device=qkv.device)[:, None] * windows.step
    at = at + torch.arange(windows.keys, device=qkv.device)  # (windows, keys): places of each window
    widths = [heads.qk, heads.qk, heads.v]
    # Heads of one width, a multiple of 4, let PyTorch take its fused kernels. Zeros change neither products nor sums.
    width = -(-max(widths) // 4) * 4
    split = list(qkv.split([heads.number * w for w in widths], dim=1))
    if factor is not None:
        split[0] = split[0] * factor.to(qkv.dtype)
    padded = torch.cat(
        [F.pad(x.unflatten(1, (heads.number, -1)), (0, width - x.shape[1] // heads.number)) for x in split], 1
    )
    piece = max(1, PLAIN_PLACES // windows.keys) if not torch.is_grad_enabled() else windows.number
    outputs = []
    pieces = _pieces(windows.number, piece, bias)
    for rows in windows.rows.unbind():
        for span, mask in pieces:
            places = at[span]
            q, k, v = padded[rows[places].long()].transpose(1, 2).chunk(3, dim=1)  # (windows, heads, keys, width)
            q = q[:, :, : windows.queries]
            y = F.scaled_dot_product_attention(
                q, k, v, mask.to(q.dtype) if mask is not None else None, scale=heads.qk**-0.5
            )
            if global_kv is not None:
                parts = global_kv.to(q.dtype).split([heads.qk, heads.v], dim=-1)
                gk, gv = (F.pad(x, (0, width - x.shape[-1])).expand(len(q), -1, -1, -1) for x in parts)
                y = y + F.scaled_dot_product_attention(q, gk, gv, scale=heads.qk**-0.5)
            outputs.append(y[..., : heads.v].transpose(1, 2).flatten(2).flatten(0, 1))
    out = torch.cat(outputs)
    if not scatter:
        return out
    out = out.view(len(windows.rows), -1, out.shape[1])[:, : windows.valid].flatten(0, 1)
    rank = torch.empty(len(qkv), dtype=torch.long, device=qkv.device)  # the place of each row: scattering is a gather
    rank[windows.rows[:, : windows.valid].flatten().long()] = torch.arange(len(out), device=qkv.device)
    return out[rank]


def _pieces(number: int, most: int, bias: PositionBias | None) -> list[tuple[slice, Tensor | None]]:
    """Ranges of at most `most` of the windows with what is added to their scores, (windows or 1, heads, Q, K)."""
    if bias is None:
        return [(slice(first, first + most), None) for first in range(0, number, most)]
    uniform = number if bias.labels is None else bias.uniform
    spans = [slice(first, min(first + most, uniform)) for first in range(0, uniform, most)]
    pieces: list[tuple[slice, Tensor | None]] = [(span, bias.numbers[None]) for span in spans]
    for first in range(uniform, number, most):
        span = slice(first, first + most)
        if bias.labels is not None:
            labels = bias.labels[span]
            apart = (labels[:, :, None] != labels[:, None]) * FAR
            pieces.append((span, bias.numbers + apart[:, None].to(bias.numbers.dtype)))
    return pieces


@functools.cache
def _library(qk: int, v: int) -> ctypes.CDLL | None:
    """The kernel compiled for heads of these widths; None where it is turned off or cannot be had (said once)."""
    if os.environ.get("BASICSR_KERNELS") == "0":
        return None
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
    """The shared library, compiled unless the cache has it.

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
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            library = Path(temporary) / target.name
            for threading in THREADING:
                command = [compiler, *FLAGS, *threading, "-march=native", *widths, "-o", str(library), str(SOURCE)]
                result = subprocess.run(command, check=not threading, capture_output=True, text=True, timeout=120)
                if result.returncode == 0:
                    break
            library.replace(target)  # whole or not at all, whoever else compiles it now
    return target


def _processor() -> str:
    """What the machine code depends on: a home folder may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
