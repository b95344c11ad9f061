"""The arguments of an attention in windows of gathered rows; see `attention.py`."""

from typing import NamedTuple

import torch
from torch import Tensor

from basicsr.archs.kernels import runs_triton

FAR = -100.0  # added to the score of two places with different labels, as in Swin Transformer; the C++ file has it too


class Inverse(NamedTuple):
    """The keys of the windows that each row is, for gradients that are summed in a fixed order."""

    order: Tensor  # (images, entries) int32: the row of each entry
    key_slots: Tensor  # (entries, taps) int32: the slots `window * keys + key` that hold it, the same in every image;
    # -1: no further one


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
    inverse: Inverse | None = None  # given where gradients on a GPU must repeat bit for bit

    def query_rows(self) -> Tensor:
        """Return the rows of all queries, window after window, (images * windows * queries,)."""
        return self.rows.unfold(1, self.queries, self.step)[:, : self.number].flatten()


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
    """The bias on the scores of windows whose queries are their keys."""

    numbers: Tensor  # (heads, queries, keys)
    labels: Tensor | None = None  # (windows, keys) int32: between places with different labels `FAR` is added, too
    uniform: int = 0  # windows at the beginning whose labels are all the same
    far: Tensor | None = None  # `far_apart(labels)`, in graph form, where one tensor serves all layers


def far_apart(labels: Tensor) -> Tensor:
    """Return the bias of labels (windows, keys) on the scores, (windows, 1, keys, keys) float32."""
    return (labels[:, None, :, None] != labels[:, None, None]).to(torch.float32) * FAR


def repeats_gradients(like: Tensor) -> bool:
    """Return whether the kernels must sum gradients in a fixed order: with `deterministic: true`."""
    return torch.are_deterministic_algorithms_enabled() and torch.is_grad_enabled() and runs_triton(like)


def slots_by_entry(entry_of: Tensor, entries: int) -> Tensor:
    """Return the slots that hold each entry, (entries, taps) int32, ascending, then -1.

    Args:
        entry_of: (slots,) the entry in each slot.
    """
    slots = entry_of.argsort(stable=True)
    counts = entry_of.bincount(minlength=entries)
    owner = entry_of[slots].long()
    tap = torch.arange(len(slots)) - (counts.cumsum(0) - counts)[owner]
    table = torch.full((entries, int(counts.max())), -1, dtype=torch.int32)
    table[owner, tap] = slots.int()
    return table
