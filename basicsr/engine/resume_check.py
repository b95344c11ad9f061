"""Compare the options of a checkpoint with those of the run that continues from it."""

import logging
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from basicsr.config.schema import Options
from basicsr.engine.checkpoint import sha256_of
from basicsr.errors import OptionError

logger = logging.getLogger("basicsr")
# Options that do not change the result: where files are written, which images are scored, how fast batches are loaded.
RESULT_NEUTRAL = (
    "name", "val.*", "logger.*", "dist_params.*", "compact.*", "path.*", "datasets.val*", "datasets.test*",
    *(f"datasets.train.{key}" for key in ("name", "num_worker_per_gpu", "prefetch_mode", "num_prefetch_queue",
                                          "pin_memory", "persistent_workers", "cache", "cache_mb", "data_check")),
    "num_gpu", "find_unused_parameters", "train.total_iter", "train.nan*", "train.cuda_graph", "run.torch",
    "run.threads", "run.validation.*",
)  # fmt: skip
# Exceptions with a teacher: its weights, and the length of the run, which the weight of its loss depends on.
DECISIVE_WITH_TEACHER = ("path.pretrain_network_?", "path.param_key_?", "train.total_iter")
# Options that say where files are -> the facts that say which files they are. A copy elsewhere gives the same result.
FILES_OF = {
    **dict.fromkeys(
        ("datasets.train.dataroot_gt", "datasets.train.dataroot_lq", "datasets.train.meta_info_file"),
        ("run.files", "run.samples", "run.content"),
    ),
    "path.pretrain_network_g": ("run.sha256.pretrain_network_g",),
    "path.pretrain_network_t": ("run.sha256.pretrain_network_t",),
}
# Facts that are compared only where both runs know them: older versions did not, and data_check decides on content.
OF_BOTH = ("run.files", "run.samples", "run.content", "run.sha256.*", "run.validation.*")
DEFAULT = "(default)"
# Keys that states of BasicSR 1.4 and of older versions do not have -> the consequence.
MISSING_IN_OLD_STATES = {
    "rng": "the random state (random numbers start again from manual_seed)",
    "data": "the position in the data (it follows from the iteration; the order of the samples is the present one)",
    "options": "the options of its run (check that they are the same)",
    "best": "the best scores (they start again)",
    "scaler": "the scale of float16 gradients (it is searched again)",
}


def run_facts(opt: Options, device: torch.device, samples_per_process: int, files: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the numbers of a run besides its options, for the training state.

    Args:
        files: facts about the images: of the training set `files`, `samples` and `content`, lines that change with them
            (empty if nothing is known), and `validation`, a line for each validation set.
    """
    facts = {
        "world_size": opt.world_size,
        "device": device.type,
        "samples_per_epoch": samples_per_process * opt.world_size,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        **files,
    }
    if "network_t" in opt:
        weights = {key: opt.path[key] for key in ("pretrain_network_g", "pretrain_network_t")}
        facts["sha256"] = {key: sha256_of(path) for key, path in weights.items() if path is not None}
    return facts


def check_changes(
    opt: Options, run: Mapping[str, Any], state: Mapping[str, Any], path: Path, changed_files: str = ""
) -> None:
    """Log which options and facts have changed since `state` was saved, and what an old state does not hold.

    Args:
        opt: the present options.
        run: the present `run_facts`.
        state: the training state, with the `options` and `run` of its time; without them nothing is compared.
        path: of the state.
        changed_files: names of the training images that have changed, in words.

    Raises:
        OptionError: when a change affects the result of the run, unless `opt.force_resume`.
    """
    if missing := [text for key, text in MISSING_IN_OLD_STATES.items() if key not in state]:
        logger.warning("%s: is of an older version and lacks %s", path, "; ".join(missing))
    if "options" not in state:
        return
    before = dict(_flat({**state["options"], "run": state.get("run", {})}))
    now = dict(_flat({**opt.to_minimal_dict(), "run": dict(run)}))
    unknown = {key for key in before.keys() ^ now.keys() if any(fnmatchcase(key, pattern) for pattern in OF_BOTH)}
    lines, decisive = [], []
    for key in sorted((before.keys() | now.keys()) - unknown - {"path.resume_state"}):
        old, new = before.get(key, DEFAULT), now.get(key, DEFAULT)
        if old == new:
            continue
        known = [fact for fact in FILES_OF.get(key, ()) if fact in before and fact in now]
        if known and all(before[fact] == now[fact] for fact in known):
            lines.append(f"{key}: {old} -> {new} (the same files)")
            continue
        note = f" ({changed_files})" if changed_files and key in FILES_OF["datasets.train.dataroot_gt"] else ""
        if key.startswith("run.validation."):
            note = " (its best scores so far are of other images)"
        lines.append(f"{key}: {old} -> {new}{note}")
        if _affects_result(key, "network_t" in opt):
            decisive.append(lines[-1])
    if not lines:
        return
    logger.warning("Changed since %s was saved:\n\t%s", path, "\n\t".join(lines))
    if decisive and not opt.force_resume:
        raise OptionError(
            f"{path}: the run would not end as it would have, for these have changed: {'; '.join(decisive)}. "
            "Set them back, or accept it with --force_resume"
        )


def _affects_result(key: str, has_teacher: bool) -> bool:
    if has_teacher and any(fnmatchcase(key, pattern) for pattern in DECISIVE_WITH_TEACHER):
        return True
    return not any(fnmatchcase(key, pattern) for pattern in RESULT_NEUTRAL)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ("a.b", value) of nested mappings, tuples as lists, since files hold only lists."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value
