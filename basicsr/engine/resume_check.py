"""What differs between the options of a checkpoint and those of the run that goes on from it."""

import logging
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from basicsr.config.schema import Options
from basicsr.errors import OptionError

logger = logging.getLogger("basicsr")
# What may change without another result: where things are written, what is scored, how fast batches come.
HARMLESS = (
    "name", "val.*", "logger.*", "dist_params.*", "compact.*", "path.*", "datasets.val*", "datasets.test*",
    *(f"datasets.train.{key}" for key in ("name", "num_worker_per_gpu", "prefetch_mode", "num_prefetch_queue",
                                          "pin_memory", "persistent_workers", "cache", "cache_mb")),
    "num_gpu", "find_unused_parameters", "train.total_iter", "train.nan*", "train.cuda_graph", "run.torch",
    "run.threads",
)  # fmt: skip
# With a teacher these count after all: its weights, and the length of the run, which its share follows.
DECISIVE_WITH_TEACHER = ("path.pretrain_network_?", "path.param_key_?", "train.total_iter")
DEFAULT = "(default)"


def check_changes(opt: Options, run: Mapping[str, Any], state: Mapping[str, Any], path: Path) -> None:
    """List in the log what has changed since `state` was saved.

    Args:
        opt: the options of now.
        run: facts of now that are no options (number of processes, device, ...), as the state keeps them.
        state: with `options` and `run` of then; one without says nothing.
        path: of the state.

    Raises:
        OptionError: when the run would end elsewhere than it would have, unless `opt.force_resume`.
    """
    if "options" not in state:
        return
    before = dict(_flat({**state["options"], "run": state.get("run", {})}))
    now = dict(_flat({**opt.to_minimal_dict(), "run": dict(run)}))
    lines, decisive = [], []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key, DEFAULT), now.get(key, DEFAULT)
        if old != new and key != "path.resume_state":
            lines.append(f"{key}: {old} -> {new}")
            if _decides(key, "network_t" in opt):
                decisive.append(lines[-1])
    if not lines:
        return
    logger.warning("Changed since %s was saved:\n\t%s", path, "\n\t".join(lines))
    if decisive and not opt.force_resume:
        raise OptionError(
            f"{path}: the run would not end as it would have, for these have changed: {'; '.join(decisive)}. "
            "Set them back, or accept it with --force_resume"
        )


def _decides(key: str, has_teacher: bool) -> bool:
    if has_teacher and any(fnmatchcase(key, pattern) for pattern in DECISIVE_WITH_TEACHER):
        return True
    return not any(fnmatchcase(key, pattern) for pattern in HARMLESS)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("a.b", value) of nested mappings; tuples as lists, for files do not tell them apart."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value
