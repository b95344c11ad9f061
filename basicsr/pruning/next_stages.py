"""The option files that a search writes for the stages after it: fine-tuning and test."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from basicsr.config.convert import build_section
from basicsr.config.load import resolve
from basicsr.config.location import Location
from basicsr.config.schema import Options
from basicsr.config.validation import check
from basicsr.text import write_text


def finetune_options(
    opt: Options, spec: Mapping[str, Any], kept: list[int], weights: Path, name: str
) -> dict[str, Any]:
    """Return the option file that distils the teacher into the compact network.

    Args:
        opt: of the search.
        spec: `network_g` of the compact network.
        kept: 0-based group indices, ascending.
        weights: file of the compact network.
        name: of the run.
    """
    values = opt.to_minimal_dict()
    tail = {key: value for key, value in values.get("prune", {}).items() if key.startswith("tail_")}
    train = {key: value for key, value in values["train"].items() if key != "optim_m"}
    result: dict[str, Any] = {
        "name": name,
        "model_type": "PruneDistillModel",
        "scale": opt.scale,
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
    }
    return {key: value for key, value in result.items() if value != {}}


def recovery_options(opt: Options, spec: Mapping[str, Any], kept: list[int], iterations: int) -> Options:
    """Return the resolved options of a short fine-tuning without weight files, by which masks are compared.

    They are those of `finetune_options` with another `train.total_iter`, and so is the period of a cosine.

    Args:
        opt: of the search.
        spec: `network_g` of a compact network.
        kept: groups of the teacher that it has.
        iterations: of the training.

    Raises:
        OptionError: when the options do not fit each other.
    """
    values = finetune_options(opt, spec, kept, Path(), f"{opt.name}_recovery")
    values["path"] = {name: value for name, value in values["path"].items() if name != "pretrain_network_g"}
    values["val"] = {k: v for k, v in values["val"].items() if k != "expect_teacher_psnr"} | {"pbar": False}
    values["train"] |= {"total_iter": iterations}
    scheduler = values["train"].get("scheduler") or {}
    if scheduler.get("type") == "CosineAnnealingRestartLR":
        others = {name: value for name, value in scheduler.items() if name != "restart_weights"}
        values["train"]["scheduler"] = {**others, "periods": [iterations]}
    options = build_section(Options, values, Location({(): str(opt.source)}))
    check(options, is_train=True)
    options = replace(options, is_train=True, source=opt.source)
    return resolve(options, launcher=opt.launcher, rank=opt.rank, world_size=opt.world_size)


def longest_warmup(options: Options) -> int:
    """Return the number of iterations of fine-tuning, from the first, that are a warm-up of any kind."""
    rates = options.train.warmup_iter if options.train else 0
    prune = options.prune
    return max(rates, prune.tail_warmup_iter, prune.tail_fit) if prune else rates


def recovery_settings(options: Options) -> dict[str, Any]:
    """Return the settings that the result of `recovery_options` depends on, besides the mask and weights."""
    values = options.to_minimal_dict()
    return {
        "iterations": options.train.total_iter if options.train else 0,
        "train_set": values["datasets"]["train"],
        "prune": {key: value for key, value in values["prune"].items() if key != "kept"},
        **{key: values.get(key) for key in ("manual_seed", "kd", "train")},
    }


def test_options(opt: Options, spec: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the option file that tests the fine-tuned network `name` as an ordinary model."""
    values = opt.to_minimal_dict()
    sets = [value for key, value in values["datasets"].items() if key.split("_")[0] != "train"]
    metrics = values.get("val", {}).get("metrics", {})
    return {
        "name": f"test_{name}",
        "model_type": "SRModel",
        "scale": opt.scale,
        **{key: values[key] for key in ("num_gpu",) if key in values},
        "datasets": {f"test_{i}": value for i, value in enumerate(sets, 1)},
        "network_g": dict(spec),
        "path": {
            **{key: value for key, value in values["path"].items() if key.endswith("s_root")},
            "pretrain_network_g": f"{opt.path.experiments_root}/{name}/models/net_g_latest.pth",
        },
        "val": {"save_img": True, "metrics": metrics},
    }


def write_option_file(path: Path, values: Mapping[str, Any], title: str) -> None:
    """Write an option file under one comment line."""
    text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    write_text(path, f"# {title}\n{text}")
