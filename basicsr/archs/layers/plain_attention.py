"""Attention in windows of gathered rows from public calls: on every device, in every precision, and in exports."""

import torch
from torch import Tensor
from torch.nn import functional as F

from basicsr.archs.layers.export_mode import active_form
from basicsr.archs.layers.plans import planned
from basicsr.archs.layers.windows import Heads, PositionBias, Windows, far_apart

PLACES = 1 << 16  # places of windows that an evaluation attends in at a time
SCORES = 1 << 24  # scores of rows and global keys that an evaluation holds at a time
GRAPH_SCORES = 1 << 25  # of all heads in one tensor of a graph: 128 MiB in float32, which every WebGPU adapter takes


def plain_attention(
    qkv: Tensor,
    windows: Windows,
    heads: Heads,
    global_kv: Tensor | None = None,
    scatter: bool = False,
    bias: PositionBias | None = None,
    factor: Tensor | None = None,
) -> Tensor:
    """Return `gathered_attention` by PyTorch, with gradients; in evaluation in pieces, so that memory stays bounded."""
    q, k, v = qkv.split([heads.number * width for width in (heads.qk, heads.qk, heads.v)], dim=1)
    if factor is not None:
        q = q * factor.to(q.dtype).view(1, 1)
    out = _in_windows(q, k, v, windows, heads, bias)
    if scatter:
        rows = windows.rows[:, : windows.valid].flatten().long()
        out = out.new_empty(len(qkv), out.shape[2]).index_copy(0, rows, out[:, : windows.valid].flatten(0, 1))
    else:
        out = out.flatten(0, 1)
    if global_kv is None:
        return out
    to_all = _to_global_keys(q, heads, global_kv.to(q.dtype))
    if scatter:
        return out + to_all
    return out + to_all.index_select(0, windows.query_rows())


def _in_windows(q: Tensor, k: Tensor, v: Tensor, windows: Windows, heads: Heads, bias: PositionBias | None) -> Tensor:
    """Return the attention in all windows, (images, windows * queries, heads * v)."""
    images, number = len(windows.rows), windows.number
    # Heads of one width, a multiple of 4, let PyTorch take its fused kernels. Zeros change neither products nor sums.
    width = -(-max(heads.qk, heads.v) // 4) * 4
    padded = torch.cat([_padded(x, heads.number, width) for x in (q, k, v)], dim=1)
    columns = heads.number * width
    places = padded.index_select(0, windows.rows.flatten()).view(images, -1, 3 * columns)
    at_queries = places[..., :columns].unfold(1, windows.queries, windows.step)[:, :number]
    at_keys = places[..., columns:].unfold(1, windows.keys, windows.step)
    outputs = []
    for span, mask in _spans(windows, bias, torch.is_grad_enabled()):
        queries, keys = (x[:, span].transpose(2, 3).flatten(0, 1) for x in (at_queries, at_keys))
        qh, kh, vh = (x.unflatten(2, (heads.number, width)).transpose(1, 2) for x in (queries, *keys.chunk(2, dim=2)))
        if mask is not None:
            mask = mask.to(qh.dtype)
            mask = mask if len(mask) == 1 else mask.expand(images, *mask.shape).flatten(0, 1)
        y = F.scaled_dot_product_attention(qh, kh, vh, mask, scale=heads.qk**-0.5)
        outputs.append(y[..., : heads.v].transpose(1, 2).reshape(images, -1, heads.number * heads.v))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)


def _padded(x: Tensor, heads: int, width: int) -> Tensor:
    """Return (rows, heads * w) with zeros behind every head, (rows, heads * width)."""
    missing = width - x.shape[1] // heads
    return F.pad(x.unflatten(1, (heads, -1)), (0, missing)).flatten(1) if missing else x


def _spans(windows: Windows, bias: PositionBias | None, whole: bool) -> list[tuple[slice, Tensor | None]]:
    """Return ranges of windows with the bias of their scores, (windows or 1, heads, Q, K).

    Args:
        whole: as few ranges as possible, rather than such of at most `PLACES` places.
    """
    number = windows.number
    most = number if whole else max(1, PLACES // (windows.keys * max(1, len(windows.rows))))
    if bias is None:
        return [(slice(first, first + most), None) for first in range(0, number, most)]
    uniform = number if bias.labels is None else bias.uniform
    spans: list[tuple[slice, Tensor | None]] = [
        (slice(first, min(first + most, uniform)), bias.numbers[None]) for first in range(0, uniform, most)
    ]
    for first in range(uniform, number, most):
        span = slice(first, first + most)
        if bias.labels is not None:
            spans.append((span, bias.numbers + far_apart(bias.labels[span]).to(bias.numbers.dtype)))
    return spans


def _to_global_keys(q: Tensor, heads: Heads, global_kv: Tensor) -> Tensor:
    """Return the attention of all rows to the same keys, (rows, heads * v): two products and a softmax.

    PyTorch's fused attention is made for many keys; its gradient takes several times as long here.
    """
    keys, values = global_kv.split([heads.qk, heads.v], dim=2)
    keys = (keys * heads.qk**-0.5).mT
    most = len(q) if torch.is_grad_enabled() else max(1, SCORES // max(1, heads.number * keys.shape[2]))
    outputs = []
    for rows in q.split(max(1, most)):
        q_hND = rows.unflatten(1, (heads.number, heads.qk)).transpose(0, 1)
        outputs.append(((q_hND @ keys).softmax(dim=-1) @ values).transpose(0, 1).flatten(1))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def graph_attention(
    qkv: Tensor,
    windows: Windows,
    heads: Heads,
    global_kv: Tensor | None = None,
    scatter: bool = False,
    bias: PositionBias | None = None,
    factor: Tensor | None = None,
) -> Tensor:
    """Return `gathered_attention` of one image in the form of `export_mode.py`, inside of which alone it works."""
    number, step, queries, keys = windows[1:5]
    q, k, v = qkv.split([heads.number * width for width in (heads.qk, heads.qk, heads.v)], dim=1)
    q = q * heads.qk**-0.5 if factor is None else q * (factor.to(q.dtype).view(1, 1) * heads.qk**-0.5)
    rows = windows.rows.flatten()
    query_rows = key_rows = rows
    if (step, keys) != (queries, queries):
        query_rows = _rows_in_graph(rows, number, step, queries)
        key_rows = _rows_in_graph(rows, number, step, keys)
    q_WhQD = q.index_select(0, query_rows).view(number, queries, heads.number, heads.qk).transpose(1, 2)
    k_WhDK = k.index_select(0, key_rows).view(number, keys, heads.number, heads.qk).permute(0, 2, 3, 1)
    v_WhKD = v.index_select(0, key_rows).view(number, keys, heads.number, heads.v).transpose(1, 2)
    outputs = []
    for some in _head_groups(windows, heads):
        scores = q_WhQD[:, some] @ k_WhDK[:, some]
        if bias is not None:
            scores = scores + bias.numbers[some].to(scores.dtype)
            far = bias.far if bias.far is not None or bias.labels is None else far_apart(bias.labels)
            if far is not None:
                scores = scores + far.to(scores.dtype)
        outputs.append(scores.softmax(dim=-1) @ v_WhKD[:, some])
    out_WhQD = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
    out = out_WhQD.transpose(1, 2).reshape(number * queries, heads.number * heads.v)
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


def _head_groups(windows: Windows, heads: Heads) -> list[slice]:
    """Return the heads whose scores a graph computes at a time: all of them, or one where all would be too many.

    A runtime holds the scores of a step and their softmax. In graphs for any size, whose number of windows is not
    known, it is one head at a time.
    """
    form = active_form()
    is_static = form is not None and form.is_static
    if is_static and windows.number * heads.number * windows.queries * windows.keys <= GRAPH_SCORES:
        return [slice(None)]
    return [slice(head, head + 1) for head in range(heads.number)]


def _rows_in_graph(rows: Tensor, number: int, step: int, count: int) -> Tensor:
    """Return the rows of `count` places of every window, one window after the other."""
    return rows.index_select(0, planned(_places, number, step, count, like=rows))


def _places(number: int, step: int, count: int, device: torch.device) -> Tensor:
    """Return `count` places of every window, one window after the other, int32."""
    first, after = (torch.arange(n, dtype=torch.int32, device=device) for n in (number, count))
    return ((first * step)[:, None] + after).flatten()
