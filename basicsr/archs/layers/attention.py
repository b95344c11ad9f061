"""Attention in windows whose rows are gathered by index, by the fastest implementation for the device.

CATANet attends in sub-groups of sorted tokens and in overlapping patches, ATD in sub-groups and in shifted windows. All
are windows: lists of rows of one matrix of queries, keys and values. Gathering inside the attention saves the copies
(an overlapping patch grid holds every token 1.2 to 1.5 times, a sub-group's keys twice), and heads need no padding.

NVIDIA GPUs take the Triton kernels of `kernels/window_attention.py` and `kernels/global_attention.py`, CPUs the C++ one
of `kernels/compiled_attention.py`, everything else `plain_attention.py`. `BASICSR_KERNELS=0` turns kernels off.
"""

import os

import torch
from torch import Tensor

from basicsr.archs.kernels import MAX_HEAD_WIDTH, runs_triton
from basicsr.archs.kernels.compiled_attention import compiled_attention
from basicsr.archs.kernels.loader import triton_kernels
from basicsr.archs.layers.export_mode import active_form, has_values
from basicsr.archs.layers.plain_attention import graph_attention, plain_attention
from basicsr.archs.layers.windows import Heads, PositionBias, Windows


def gathered_attention(
    qkv: Tensor,
    windows: Windows,
    heads: Heads,
    global_kv: Tensor | None = None,
    scatter: bool = False,
    bias: PositionBias | None = None,
    factor: Tensor | None = None,
) -> Tensor:
    """Return softmax attention in every window, scale 1/sqrt(qk).

    Args:
        qkv: (rows, heads.columns).
        global_kv: (heads, T, qk + v), keys and values that every query attends to as well, in a softmax of its own that
            is added to the window's.
        scatter: the output of a query goes to the row it came from; every row must be the query of one window, and
            `step` equal to `queries`.
        bias: added to the scores before the softmax; its numbers may need a gradient.
        factor: on the scores, a single number above 0, besides the scale; may need a gradient.

    Returns:
        (images * windows * queries, heads * v), window after window; with `scatter` (rows, heads * v).
    """
    if active_form() is not None:
        return graph_attention(qkv, windows, heads, global_kv, scatter, bias, factor)
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting() and not torch.is_grad_enabled():
        numbers, labels, uniform = bias[:3] if bias is not None else (None, None, 0)
        sizes = list(windows[1:6]), list(heads)
        return _opaque(qkv, windows.rows, global_kv, numbers, labels, uniform, factor, *sizes, scatter)
    arguments = qkv, windows, heads, global_kv, scatter, bias, factor
    if runs_triton(qkv) and max(heads.qk, heads.v) <= MAX_HEAD_WIDTH:
        return _triton_attention(*arguments)
    takes_compiled = has_values(qkv) and qkv.device.type == "cpu"
    if takes_compiled and qkv.dtype in (torch.float32, torch.bfloat16) and os.environ.get("BASICSR_KERNELS") != "0":
        out = compiled_attention(*arguments)
        if out is not None:
            return out
    return plain_attention(*arguments)


def _triton_attention(
    qkv: Tensor,
    windows: Windows,
    heads: Heads,
    global_kv: Tensor | None,
    scatter: bool,
    bias: PositionBias | None,
    factor: Tensor | None,
) -> Tensor:
    """Return `gathered_attention` by the kernels for NVIDIA GPUs."""
    kernels = triton_kernels()
    numbers, labels, uniform = bias[:3] if bias is not None else (None, None, 0)
    rows, number, step, queries, keys, valid, _, inverse = windows
    in_one = scatter and factor is None  # one function whose gradient of the queries is one sum
    out = kernels.window_attention(
        qkv,
        rows,
        number=number,
        step=step,
        queries=queries,
        keys=keys,
        valid=valid,
        heads=heads,
        scatter=scatter,
        numbers=numbers,
        labels=labels,
        uniform=uniform,
        factor=factor,
        inverse=inverse,
        global_kv=global_kv if in_one else None,
    )
    if global_kv is None or in_one:
        return out
    if factor is not None:  # on the scores of both
        global_kv = torch.cat([global_kv[..., : heads.qk] * factor.view(1, 1, 1), global_kv[..., heads.qk :]], dim=2)
    to_all = kernels.global_attention(qkv, global_kv, heads)
    return out + (to_all if scatter else to_all.index_select(0, windows.query_rows()))


# Written out, for older versions of PyTorch do not understand all annotations.
SCHEMA = (
    "(Tensor qkv, Tensor rows, Tensor? global_kv, Tensor? numbers, Tensor? labels, SymInt uniform, Tensor? factor, "
    "SymInt[] windows, SymInt[] heads, bool scatter) -> Tensor"
)


@torch.library.custom_op("basicsr::gathered_attention", mutates_args=(), schema=SCHEMA)
def _opaque(
    qkv: Tensor,
    rows: Tensor,
    global_kv: Tensor | None,
    numbers: Tensor | None,
    labels: Tensor | None,
    uniform: int,
    factor: Tensor | None,
    windows: list[int],
    heads: list[int],
    scatter: bool,
) -> Tensor:
    """`gathered_attention` as one node of a compiled graph, which cannot look into the kernel."""
    bias = PositionBias(numbers, labels, uniform) if numbers is not None else None
    number, step, queries, keys, valid = windows
    at = Windows(rows, number, step, queries, keys, valid)
    return gathered_attention(qkv, at, Heads(*heads), global_kv, scatter, bias, factor)


@_opaque.register_fake
def _(
    qkv: Tensor,
    rows: Tensor,
    global_kv: Tensor | None,
    numbers: Tensor | None,
    labels: Tensor | None,
    uniform: int,
    factor: Tensor | None,
    windows: list[int],
    heads: list[int],
    scatter: bool,
) -> Tensor:
    number, _, queries, _, _ = windows
    length = qkv.shape[0] if scatter else rows.shape[0] * number * queries
    return qkv.new_empty(length, heads[0] * heads[2])
