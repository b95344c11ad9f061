"""The end of a search: the mask becomes a network, written with all that comes next to `experiments/<name>/compact/`.

masked network -> cut -> compared with the masked one -> state recomputed -> tail, FFNs -> weights, option files, report
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from basicsr.archs import build_network
from basicsr.archs.prunable import Prunable, image_channels
from basicsr.config.pruning import PruneOptions
from basicsr.config.schema import Options
from basicsr.engine.checkpoint import load_weights, save_atomically, sha256_of
from basicsr.pruning.compaction import (
    SHAPES,
    compact,
    compaction_errors,
    in_double_precision,
    in_form,
    kept_groups,
    network_spec,
)
from basicsr.pruning.costs import counted_resources
from basicsr.pruning.matching import Origin
from basicsr.pruning.next_stages import finetune_options, test_options, write_option_file
from basicsr.pruning.search import MaskSearch
from basicsr.text import write_text
from basicsr.version import __version__

logger = logging.getLogger("basicsr")
WEIGHTS = "net_g_xs.pth"
REPORT = "prune_report.json"


class Equality(NamedTuple):
    """Largest absolute difference between masked and compact network, for each input shape."""

    errors: Mapping[str, float]
    dtype: str
    """float32, or float64 where they differ in float32."""

    @property
    def largest(self) -> float:
        """The largest of all differences."""
        return max(self.errors.values())


def finalize_pruned_network(
    opt: Options,
    search: MaskSearch,
    origin: Origin,
    whole: nn.Module,
    lq: Iterator[Tensor],
    tried: Sequence[Mapping[str, Any]] = (),
) -> nn.Module:
    """Cut `whole` down to the mask that `search` chose; write the compact network, its option files and the report.

    All processes call it; rank 0 writes.

    Args:
        opt: of the search.
        search: after its last step.
        origin: of the groups of `whole`.
        whole: the full-depth network with the weights of the search.
        lq: batches (B, 3, h, w) on the device of `whole`, for the state buffers (token centres).
        tried: masks that `prune.pick` has tried, for the report.

    Raises:
        RuntimeError: when the cut network differs from the masked one.
    """
    mask = [int(bit) for bit in search.mode]
    kept = kept_groups(mask)
    equality = check_compaction(whole, compact(whole, kept), kept, opt.compact.tolerance)
    small = network_to_finetune(opt, whole, kept, lq)
    if opt.rank == 0:
        root = Path(str(opt.path.log))
        folder = root / "compact"
        folder.mkdir(parents=True, exist_ok=True)
        report = search_report(opt, search, whole, small, equality)
        report |= {"kept_original": origin.of(kept).original, "tried": list(tried)}
        text = json.dumps(report, indent=2, ensure_ascii=False)
        for path in (folder / REPORT, root / REPORT):
            write_text(path, f"{text}\n")
        write_compact(folder, opt, small, mask, origin.of(kept))
        page = write_page(root)
        logger.info(
            "Groups %s of %d stay, %s parameters: %s; %s", kept, len(mask), f"{_parameters(small):,}", folder, page
        )
    return small


def network_to_finetune(opt: Options, whole: nn.Module, kept: Sequence[int], lq: Iterator[Tensor]) -> nn.Module:
    """Return the compact network with the weights that fine-tuning begins with: cut, recalibrated, in its form.

    Args:
        opt, whole, lq: see `finalize_pruned_network`.
        kept: 0-based group indices, ascending.
    """
    prune = opt.prune or PruneOptions()
    if prune.init_from == "teacher":
        begin = build_network(opt.network_g).to(next(whole.parameters()).device)
        load_weights(begin, str(opt.path.pretrain_network_g), opt.path.param_key_g, opt.path.strict_load_g)
        whole = begin
    small = compact(whole, kept)
    recalibrate(small, lq, prune.recalib_iter, prune.recalib_decay)
    return in_form(small, prune.tail, opt.compact.mlp_dim)


def check_compaction(whole: nn.Module, small: nn.Module, kept: list[int], tolerance: float) -> Equality:
    """Check that the cut network gives the outputs of the masked one.

    Networks that sort pixels by category are compared in float64 where they differ in float32: a rounding error can
    move a pixel to another category, which changes everything after it.

    Raises:
        RuntimeError: when they differ by more than `tolerance`, in float64.
    """
    dtype = str(next(whole.parameters()).dtype).removeprefix("torch.")
    equality = Equality(compaction_errors(whole, small, kept), dtype)
    if equality.largest <= tolerance:
        return equality
    logger.info("Cut and masked network differ by %.1e; comparing them in float64", equality.largest)
    precise = in_double_precision(whole), in_double_precision(small)
    equality = Equality(compaction_errors(*precise, kept), "float64")
    if equality.largest > tolerance:
        raise RuntimeError(
            f"compaction: the cut network differs from the masked one by {equality.largest:.1e}, more than "
            f"compact.tolerance ({tolerance:.1e}); inputs and differences: {equality.errors}; "
            f"{first_difference(*precise, kept)}"
        )
    return equality


@torch.no_grad()
def recalibrate(net: nn.Module, lq: Iterator[Tensor], iterations: int, decay: float) -> None:
    """Recompute the state buffers by forwards in training mode; weights do not change.

    In the search, the inputs of a group (and so its token centres) came from changing sub-networks. A network without
    state buffers is left unchanged.
    """
    infos = cast(Prunable, net).prunable_groups()
    if not any(info.state_buffers for info in infos):
        return
    groups = len(infos)
    was_training = net.training
    net.train()
    cast(Prunable, net).set_state_tracking([True] * groups, decay)
    for _, batch in zip(range(iterations), lq, strict=False):
        net(batch)
    cast(Prunable, net).set_state_tracking([True] * groups)
    net.train(was_training)


@torch.no_grad()
def first_difference(whole: nn.Module, small: nn.Module, kept: list[int]) -> str:
    """Return a sentence that names the first group whose output differs, for an error message."""
    count, height, width = SHAPES[0]
    x = torch.rand(count, image_channels(whole), height, width).to(next(whole.parameters()))
    number = len(cast(Prunable, whole).prunable_groups())
    _, expected = whole.eval()(x, [int(i in kept) for i in range(number)], kept)
    _, found = small.eval()(x, taps=range(len(kept)))
    for place, index in enumerate(kept):
        if not torch.equal(found[place], expected[index]):
            return f"the first group that differs is {index} ({place} of the cut network)"
    return "all groups agree, so what follows them differs"


def write_compact(folder: Path, opt: Options, small: nn.Module, mask: list[int], origin: Origin) -> None:
    """Write mask, network spec, option files and, last, the weights: if they exist, all files are complete."""
    spec, kept = network_spec(small), origin.teacher
    meta = {"kept": kept, "original": origin.original, "basicsr": __version__, "name": opt.name}
    content = {
        "params": {name: value.detach().cpu() for name, value in small.state_dict().items()},
        "network_g": spec,
        "meta": {**meta, "teacher": opt.path.pretrain_network_t, "input": opt.input_form.to_plain()},
    }
    np.save(folder / "mask.npy", np.array(mask, dtype=np.uint8))
    write_option_file(folder / "network_g.yml", {"network_g": spec}, "The compact network.")
    if opt.compact.emit_yaml:
        name = f"{opt.name}_finetune"
        title = f"Distil the teacher into what {opt.name} kept: groups {origin.original}."
        values = finetune_options(opt, spec, kept, folder / WEIGHTS, name)
        write_option_file(folder / "train_finetune.yml", values, title)
        write_option_file(
            folder / f"test_x{opt.scale}.yml", test_options(opt, spec, name), f"Test what {name} trained."
        )
    save_atomically(content, folder / WEIGHTS)


def write_page(folder: Path) -> str:
    """Write `prune_report.html`; return its path, or the reason for its absence, since the network is safe already."""
    from basicsr.pruning.report.page import build_report  # with matplotlib, which slows down the start of every run

    try:
        return str(build_report(folder))
    except (ValueError, OSError) as error:
        return f"no report: {error}"


def search_report(
    opt: Options, search: MaskSearch, whole: nn.Module, small: nn.Module, equality: Equality
) -> dict[str, Any]:
    """Return the content of `prune_report.json`: the measured facts of a search, without judging them.

    The costs of groups and of the rest are those in the compact network; `full` is that of the network as it was,
    except for the latency, which was measured with the tail and the FFNs of the compact one.
    """
    sampler, mask = search.sampler, [int(bit) for bit in search.mode]
    before = {resource.name: resource.full for resource in counted_resources(whole, opt.budget)}
    teacher = str(opt.path.pretrain_network_t)
    return {
        "name": opt.name,
        "mask": mask,
        "kept": kept_groups(mask),
        "number": len(mask),
        "ranking": [
            {"mask": "".join(map(str, bits)), "kept": kept_groups(bits), "p": p}
            for bits, p in sampler.ranking(search.prune.topk_report)
        ],
        "pi": sampler.marginals().tolist(),
        "logits": {name: value.tolist() for name, value in sampler.state_dict().items() if isinstance(value, Tensor)},
        "resources": {
            resource.name: {
                "fixed": resource.fixed,
                "groups": list(resource.groups),
                "limit": resource.limit,
                "full": before.get(resource.name, resource.full),
                "kept": resource.total(mask),
            }
            for resource in search.resources
        },
        "compact": {"params": _parameters(small), "network_g": network_spec(small)},
        "equality": dict(equality.errors),
        "equality_dtype": equality.dtype,
        "equality_tolerance": opt.compact.tolerance,
        "teacher": {"path": teacher, "sha256": sha256_of(teacher)},
        "seeds": {"manual_seed": opt.manual_seed, "mask_seed": search.prune.mask_seed},
        "versions": {"basicsr": __version__, "torch": str(torch.__version__)},
        "options": opt.to_minimal_dict(),
    }


def _parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())
