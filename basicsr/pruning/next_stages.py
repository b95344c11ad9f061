"""The option files that a search writes for the stages after it: fine-tuning and test."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from basicsr.config.schema import Options


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
    tail = {key: value for key, value in values.get("prune", {}).items() if key.startswith("tail_warmup_")}
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
    path.write_text(f"# {title}\n{text}", encoding="utf-8")
