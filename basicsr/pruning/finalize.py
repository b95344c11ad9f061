"""The end of a search: the mask becomes a network, and what comes next lies ready under `experiments/<name>/compact/`.

masked network -> cut -> checked against the masked one -> state set anew -> tail -> weights, option files, report
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from torch import Tensor, nn

from basicsr.archs import build_network
from basicsr.archs.prunable import Prunable
from basicsr.config.pruning import PruneOptions
from basicsr.config.schema import Options
from basicsr.engine.checkpoint import load_weights, save_atomically
from basicsr.pruning.compaction import (
    SHAPES,
    compact,
    compaction_errors,
    in_double_precision,
    kept_groups,
    network_spec,
    with_tail,
)
from basicsr.pruning.report import build_report
from basicsr.pruning.search import MaskSearch
from basicsr.version import __version__

logger = logging.getLogger("basicsr")
WEIGHTS = "net_g_xs.pth"


def harden(opt: Options, prune: PruneOptions, search: MaskSearch, whole: nn.Module, lq: Iterator[Tensor]) -> nn.Module:
    """Cut `whole` down to the mask that `search` chose, and write it with its option files and report.

    All processes call it; the first one writes. Networks that sort pixels by category are compared in float64 where
    they differ in float32: there a rounding can move a pixel to another category, and with it everything behind.

    Args:
        lq: batches (B, 3, h, w) on the device of `whole`, for the state buffers (token centres).

    Raises:
        RuntimeError: when the cut network is not the masked one.
    """
    mask = [int(bit) for bit in search.mode]
    kept = kept_groups(mask)
    small = compact(whole, kept)
    errors, precision = compaction_errors(whole, small, kept), str(next(whole.parameters()).dtype)
    if max(errors.values()) > opt.compact.tolerance:
        logger.info("Cut and masked network differ by %.1e; comparing them in float64", max(errors.values()))
        precise = in_double_precision(whole), in_double_precision(small)
        errors, precision = compaction_errors(*precise, kept), str(torch.float64)
        if max(errors.values()) > opt.compact.tolerance:
            raise RuntimeError(
                f"compaction: the cut network differs from the masked one by {max(errors.values()):.1e}, more than "
                f"compact.tolerance ({opt.compact.tolerance:.1e}); inputs and differences: {errors}; "
                f"{first_difference(*precise, kept)}"
            )
    if prune.init_from == "teacher":
        begin = build_network(opt.network_g).to(next(whole.parameters()).device)
        load_weights(begin, str(opt.path.pretrain_network_g), opt.path.param_key_g, opt.path.strict_load_g)
        small = compact(begin, kept)
    recalibrate(small, lq, prune.recalib_iter, prune.recalib_decay)
    small = with_tail(small, prune.tail) if prune.tail != "original" else small
    if opt.rank == 0:
        folder = Path(str(opt.path.log)) / "compact"
        folder.mkdir(parents=True, exist_ok=True)
        report = report_of(opt, search, whole, small, mask, errors, precision)
        text = json.dumps(report, indent=2, ensure_ascii=False)
        for path in (folder / "prune_report.json", Path(str(opt.path.log)) / "prune_report.json"):
            path.write_text(f"{text}\n", encoding="utf-8")
        write_compact(folder, opt, small, mask)
        try:
            page = str(build_report(Path(str(opt.path.log))))
        except (ValueError, OSError) as error:  # the network is safe; only its page is not
            page = f"no report: {error}"
        logger.info(
            "Groups %s of %d stay, %s parameters: %s; %s", kept, len(mask), f"{_parameters(small):,}", folder, page
        )
    return small


@torch.no_grad()
def recalibrate(net: nn.Module, lq: Iterator[Tensor], iterations: int, decay: float) -> None:
    """Move the state buffers to what the network sees now: forwards in training mode, weights untouched.

    The search leaves centres whose inputs came from ever other sub-networks. A network without state stays as it is.
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
    """The first group whose output differs, for an error message."""
    x = torch.rand(SHAPES[0]).to(next(whole.parameters()))
    number = len(cast(Prunable, whole).prunable_groups())
    _, expected = whole.eval()(x, [int(i in kept) for i in range(number)], kept)
    _, found = small.eval()(x, taps=range(len(kept)))
    for place, index in enumerate(kept):
        if not torch.equal(found[place], expected[index]):
            return f"the first group that differs is {index} ({place} of the cut network)"
    return "all groups agree, so what follows them differs"


def write_compact(folder: Path, opt: Options, small: nn.Module, mask: list[int]) -> None:
    """Option files for fine-tuning and test, network spec, and last the weights: where they are, all is there."""
    import numpy as np

    spec, kept = network_spec(small), kept_groups(mask)
    content = {
        "params": {name: value.detach().cpu() for name, value in small.state_dict().items()},
        "network_g": spec,
        "meta": {"kept": kept, "basicsr": __version__, "name": opt.name, "teacher": opt.path.pretrain_network_t},
    }
    np.save(folder / "mask.npy", np.array(mask, dtype=np.uint8))
    write_yaml(folder / "network_g.yml", {"network_g": spec}, "What stayed of the network.")
    if opt.compact.emit_yaml:
        name = f"{opt.name}_finetune"
        write_yaml(folder / "train_finetune.yml", finetune_options(opt, spec, kept, folder / WEIGHTS, name),
                   f"Distil the teacher into what {opt.name} kept: groups {kept}.")  # fmt: skip
        write_yaml(folder / f"test_x{opt.scale}.yml", test_options(opt, spec, name), f"Test what {name} trained.")
    save_atomically(content, folder / WEIGHTS)


def finetune_options(
    opt: Options, spec: Mapping[str, Any], kept: list[int], weights: Path, name: str
) -> dict[str, Any]:
    """The option file of the next stage."""
    values = opt.to_minimal_dict()
    tail = {key: value for key, value in values.get("prune", {}).items() if key.startswith("tail_warmup_")}
    train = {key: value for key, value in values["train"].items() if key != "optim_m"}
    result: dict[str, Any] = {
        "name": name, "model_type": "PruneDistillModel", "scale": opt.scale,
        **{key: values[key] for key in ("num_gpu", "manual_seed") if key in values},
        "datasets": values["datasets"],
        "network_g": dict(spec),
        "network_t": values["network_t"],
        "path": {
            **{key: value for key, value in values["path"].items() if key.endswith(("_t", "s_root"))},
            "pretrain_network_g": weights.as_posix(),
        },
        "prune": {"stage": "finetune", "kept": kept, **tail},
        "kd": values.get("kd", {}),
        "train": train | dict(opt.compact.finetune),
        "val": values.get("val", {}),
        "logger": values.get("logger", {}),
    }  # fmt: skip
    return {key: value for key, value in result.items() if value != {}}


def test_options(opt: Options, spec: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The option file that tests the fine-tuned network, as an ordinary model."""
    values = opt.to_minimal_dict()
    sets = [value for key, value in values["datasets"].items() if key.split("_")[0] != "train"]
    metrics = values.get("val", {}).get("metrics", {})
    return {
        "name": f"test_{name}", "model_type": "SRModel", "scale": opt.scale,
        **{key: values[key] for key in ("num_gpu",) if key in values},
        "datasets": {f"test_{i}": value for i, value in enumerate(sets, 1)},
        "network_g": dict(spec),
        "path": {
            **{key: value for key, value in values["path"].items() if key.endswith("s_root")},
            "pretrain_network_g": f"{opt.path.experiments_root}/{name}/models/net_g_latest.pth",
        },
        "val": {"save_img": True, "metrics": metrics},
    }  # fmt: skip


def write_yaml(path: Path, values: Mapping[str, Any], title: str) -> None:
    """Write an option file under one line that says what it is."""
    text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    path.write_text(f"# {title}\n{text}", encoding="utf-8")


def report_of(
    opt: Options, search: MaskSearch, whole: nn.Module, small: nn.Module, mask: list[int], errors: Mapping[str, float],
    precision: str,
) -> dict[str, Any]:  # fmt: skip
    """The content of `prune_report.json`."""
    sampler, kept = search.sampler, kept_groups(mask)
    ranking = [
        {"mask": "".join(map(str, bits)), "kept": kept_groups(bits), "p": p}
        for bits, p in sampler.ranking(search.prune.topk_report)
    ]
    teacher = str(opt.path.pretrain_network_t)
    costs = {
        r.name: {"fixed": r.fixed, "groups": list(r.groups), "limit": r.limit, "full": r.total([1] * len(mask)),
                 "kept": r.total(mask)}
        for r in search.resources
    }  # fmt: skip
    return {
        "name": opt.name,
        "mask": mask,
        "kept": kept,
        "number": len(mask),
        "ranking": ranking,
        "pi": sampler.marginals().tolist(),
        "logits": {name: value.tolist() for name, value in sampler.state_dict().items() if isinstance(value, Tensor)},
        "resources": costs,
        "compact": {"params": _parameters(small), "network_g": network_spec(small)},
        "criteria": criteria(opt, small, errors, precision),
        "equality": dict(errors),
        "teacher": {"path": teacher, "sha256": sha256(teacher)},
        "seeds": {"manual_seed": opt.manual_seed, "mask_seed": search.prune.mask_seed},
        "versions": {"basicsr": __version__, "torch": str(torch.__version__)},
        "options": opt.to_minimal_dict(),
    }


def criteria(opt: Options, small: nn.Module, errors: Mapping[str, float], precision: str) -> dict[str, dict[str, Any]]:
    """C1 to C7 of docs/prune_distill.md ("Criteria"): judged where this run can, else where to look."""
    spec = {k: v for k, v in network_spec(small).items() if k != "type"}
    params, note = _parameters(small), "parameters"
    if "upscale" in spec:
        try:
            with torch.device("meta"):
                params, note = _parameters(type(small)(**{**spec, "upscale": 2})), "parameters at x2"
        except ValueError:  # the network has no x2
            note = f"parameters at x{spec['upscale']}"
    error = max(errors.values())

    def later(threshold: str, note: str) -> dict[str, Any]:
        return {"value": None, "threshold": threshold, "passed": None, "note": note}

    return {
        "C1": {"value": params, "threshold": "< 230,000", "passed": params < 230_000, "note": note},
        "C2": later(">= S - 0.02 dB", "mean PSNR-Y; after fine-tuning: test both networks"),
        "C3": later("ratio < 1", "latency of XS / latency of S: scripts/benchmark.py compare"),
        "C4": later("<= 41.67 ms", "24 fps at a stated input and device: scripts/benchmark.py latency"),
        "C5": {"value": error, "threshold": f"<= {opt.compact.tolerance:g}",
               "passed": error <= opt.compact.tolerance, 
               "note": f"masked against cut network in {precision.removeprefix('torch.')}, largest difference"},
        "C6": later("<= 2/255", "exported model against this one"),
        "C7": later("runs, C5 holds", "another network through the same pipeline"),
    }  # fmt: skip


def sha256(path: str) -> str:
    """Of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())
