"""Groups of similar tokens: the nearest of some centres, the order by group, and windows of equal size in that order.

Shapes: B batch, N tokens in raster order, C channels, T token centres, M = B*N.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from basicsr.archs.kernels import runs_triton
from basicsr.archs.kernels.loader import triton_kernels
from basicsr.archs.layers.export_mode import active_form, at_most, counting_order, has_values
from basicsr.archs.layers.group_hook import groups_are_watched, recorded_groups
from basicsr.archs.layers.plans import planned
from basicsr.archs.layers.tokens import mirrored_index
from basicsr.archs.layers.windows import Inverse, Windows, repeats_gradients, slots_by_entry

SIMILARITY_ROWS = 1 << 16  # tokens whose similarities to all centres are held at a time


def takes_kmeans_kernel(tokens: Tensor, centres: Tensor) -> bool:
    """Return whether the Triton kernels can find the nearest centres: in float32, unless a hook needs similarities."""
    return runs_triton(tokens) and centres.dtype == torch.float32 and not groups_are_watched()


def nearest_centre(z_BNC: Tensor, unit_centres_TC: Tensor) -> Tensor:
    """Return the index of the centre with the largest dot product for each token, (B, N); of equals the first.

    Without gradient. Evaluations hold the similarities of `SIMILARITY_ROWS` tokens at a time.
    """
    tokens = z_BNC.flatten(0, 1)
    with torch.no_grad():
        if takes_kmeans_kernel(tokens, unit_centres_TC):
            return triton_kernels().nearest_centre(tokens, unit_centres_TC).view(z_BNC.shape[:2])
        parts = tokens.split(SIMILARITY_ROWS) if has_values(tokens) else [tokens]
        nearest = [(part @ unit_centres_TC.T).argmax(dim=-1) for part in parts]
        groups = (nearest[0] if len(nearest) == 1 else torch.cat(nearest)).view(z_BNC.shape[:2])
        return recorded_groups(groups, lambda: z_BNC @ unit_centres_TC.T)


def sums_by_centre(z_MC: Tensor, unit_centres_TC: Tensor) -> Tensor:
    """Return the sum of the tokens nearest to each centre, and their number, (T, C + 1); the sum has a gradient."""
    if takes_kmeans_kernel(z_MC, unit_centres_TC):
        return triton_kernels().kmeans_sums(z_MC, unit_centres_TC)
    with torch.no_grad():
        member = F.one_hot(nearest_centre(z_MC[None], unit_centres_TC)[0], len(unit_centres_TC)).to(z_MC.dtype)
    # One product gives the sums, and a column of ones the counts.
    return member.T @ torch.cat([z_MC, torch.ones_like(z_MC[:, :1])], dim=1)


def stable_group_order(groups_BN: Tensor, group_num: int) -> Tensor:
    """Return the tokens' order by group, raster order kept inside each group.

    Args:
        groups_BN: group of every token, integers in [0, group_num).

    Returns:
        (B, N): for each image, the index among all B*N tokens of the token that comes at each place.

    Note:
        Narrow integer keys in one dimension take torch's radix sort, 10 to 100 times faster than sorting int64 rows.
    """
    form = active_form()
    if form is not None:
        order, places = counting_order(groups_BN.flatten().int(), group_num)
        order_BN = order[None]
        form.keep_places(order_BN, places)
        return order_BN
    batch = groups_BN.shape[0]
    if batch > 1:
        groups_BN = groups_BN + planned(_first_groups, batch, group_num, like=groups_BN)
    dtype = torch.int16 if batch * group_num <= torch.iinfo(torch.int16).max else torch.int32
    return groups_BN.flatten().to(dtype).sort(stable=True).indices.view_as(groups_BN)


def _first_groups(batch: int, group_num: int, device: torch.device) -> Tensor:
    """Return the number of the first group of each image, (batch, 1), where groups are numbered through the batch."""
    return torch.arange(batch, device=device)[:, None] * group_num


def sorted_windows(order_BN: Tensor, group_size: int, reach: int = 1) -> Windows:
    """Return equal sub-groups of tokens in the order `order_BN` of `stable_group_order`, as windows to attend in.

    The order is mirrored where the last sub-groups need more tokens than there are.

    Args:
        group_size: tokens of a sub-group; one sub-group where there are fewer.
        reach: sub-groups whose keys a query sees: its own and those that follow.
    """
    length = order_BN.shape[1]
    size = at_most(group_size, length)
    number = (length + size - 1) // size
    stop = (number + reach - 1) * size
    form = active_form()
    place_of = form.places_of(order_BN) if form is not None else None
    order_BN = order_BN.int()
    rows = order_BN
    if form is not None or torch.compiler.is_compiling() or stop > length:
        rows = order_BN.index_select(1, planned(mirrored_index, 0, stop, length, like=order_BN))
    keys = reach * size
    inverse = None
    if repeats_gradients(order_BN):
        inverse = Inverse(order_BN, planned(_sorted_key_slots, number, size, keys, length, like=order_BN))
    return Windows(rows, number, size, size, keys, length, place_of, inverse)


def _sorted_key_slots(number: int, step: int, keys: int, length: int, device: torch.device) -> Tensor:
    """Return the key slots of sorted sub-groups that hold each place of the order; see `Inverse`."""
    places = mirrored_index(0, (number - 1) * step + keys, length, device)
    return slots_by_entry(places.unfold(0, keys, step).flatten(), length)
