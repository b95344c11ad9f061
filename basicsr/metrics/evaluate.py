"""The only validation loop, and its results: the scores of every image, and the best means so far."""

import csv
import io
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from basicsr.config.input_form import PLAIN_RGB, InputForm
from basicsr.config.registry import METRIC_REGISTRY
from basicsr.engine.atomic import write_atomically
from basicsr.engine.distributed import gather_objects
from basicsr.errors import first_line
from basicsr.images.files import to_pixels
from basicsr.images.names import distinct, image_name
from basicsr.images.unreadable import READ_ERRORS, Unreadable, reason_of
from basicsr.metrics import calculate_metric, describe, direction, needs_reference, protocol

logger = logging.getLogger("basicsr")
CONVERSIONS: dict[str, Callable[[Tensor], Any]] = {"uint8": to_pixels, "float": lambda image: image}  # by protocol
NO_SCORE = "-"  # in tables


class Record(NamedTuple):
    """What is known of an image after its turn."""

    path: str
    name: str
    scores: dict[str, float] | None
    """by metric; None without ground truth, or after a failure."""
    failure: str = ""
    """why it has no scores, though it should."""


@dataclass
class Scores:
    """The scores of one data set. They are incomplete where images failed: means are then of the others alone."""

    dataset: str
    per_image: dict[str, dict[str, float]]
    """image name -> metric name -> score, in the order of the data set."""
    protocols: dict[str, str] = field(default_factory=dict)
    """metric name -> how it was computed ("uint8, Y, crop 4")."""
    failed: dict[str, str] = field(default_factory=dict)
    """image name -> why it has no scores."""
    unsaved: dict[str, str] = field(default_factory=dict)
    """image name -> why its picture could not be written."""

    @property
    def count(self) -> str:
        """How many images the means are of, such as "9 of 10"."""
        return f"{len(self.per_image)} of {len(self.per_image) + len(self.failed)}"

    @property
    def problems(self) -> str:
        """What is missing of this data set, in words; "" when nothing is."""
        parts = {"images failed": len(self.failed), "pictures could not be written": len(self.unsaved)}
        return ", ".join(f"{self.dataset}: {number} {what}" for what, number in parts.items() if number)

    def mean(self) -> dict[str, float]:
        """Return the mean over scored images of each metric; inf if one image has it, {} without images."""
        columns: dict[str, list[float]] = {}
        for scores in self.per_image.values():
            for metric, value in scores.items():
                columns.setdefault(metric, []).append(value)
        return {metric: sum(values) / len(values) for metric, values in columns.items()}

    def table(self) -> str:
        """Return a Markdown table: a row for each image, the mean last; the head names each protocol."""
        mean = self.mean()
        head = [self.dataset] + [f"{m} ({self.protocols[m]})" if m in self.protocols else m for m in mean]
        lines = [head, ["---"] + ["---:"] * len(mean)]
        for name, scores in self._rows(f"**{self._mean_label}**", mean):
            lines.append([name, *(f"{scores[metric]:.4f}" if scores else NO_SCORE for metric in mean)])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def to_plain(self) -> dict[str, Any]:
        """Return data set, protocols, mean and per-image scores for JSON, with inf and nan as strings."""

        def plain(scores: dict[str, float]) -> dict[str, float | str]:
            return {metric: value if math.isfinite(value) else str(value) for metric, value in scores.items()}

        return {
            "dataset": self.dataset,
            "protocols": self.protocols,
            "mean": plain(self.mean()),
            "per_image": {name: plain(scores) for name, scores in self.per_image.items()},
            "failed": self.failed,
        }

    def to_json(self, path: str | Path) -> None:
        """Write `to_plain()` as a JSON file, whole or not at all."""
        text = json.dumps(self.to_plain(), indent=2, ensure_ascii=False)
        write_atomically(path, f"{text}\n")

    def to_csv(self, path: str | Path) -> None:
        """Write a CSV file, whole or not at all: a row for each image, empty after a failure, the mean last."""
        mean, text = self.mean(), io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["image", *mean])
        for name, scores in self._rows(self._mean_label, mean):
            writer.writerow([name, *(scores.get(metric, "") for metric in mean)])
        write_atomically(path, text.getvalue())

    @property
    def _mean_label(self) -> str:
        if self.failed:
            return f"mean of {self.count}"
        return "mean of all" if "mean" in self.per_image else "mean"  # an image may be called so

    def _rows(self, label: str, mean: dict[str, float]) -> list[tuple[str, dict[str, float]]]:
        failed: list[tuple[str, dict[str, float]]] = [(name, {}) for name in self.failed]
        last = [(label, mean)] if self.per_image or not self.failed else []
        return [*self.per_image.items(), *failed, *last]


class Best:
    """The best mean of each data set and metric so far, and its iteration.

    Args:
        metrics: metric name -> spec; see `direction` for which scores are better.
    """

    def __init__(self, metrics: Mapping[str, Mapping[str, Any]]) -> None:
        self._better = {name: direction(spec) for name, spec in metrics.items()}
        self._found: dict[str, dict[str, tuple[float, int]]] = {}

    def update(self, scores: Scores, it: int) -> list[str]:
        """Record the means of iteration `it`; return the metrics with a new best.

        nan is never best, nor are incomplete means: those of other images may be higher.
        """
        found = self._found.setdefault(scores.dataset, {})
        improved: list[str] = []
        if scores.failed:
            return improved
        for metric, value in scores.mean().items():
            sign = 1 if self._better[metric] == "higher" else -1
            if not math.isnan(value) and (metric not in found or sign * value > sign * found[metric][0]):
                found[metric] = (value, it)
                improved.append(metric)
        return improved

    def get(self, dataset: str, metric: str) -> tuple[float, int] | None:
        """Return the best value and its iteration; None before the first."""
        return self._found.get(dataset, {}).get(metric)

    def iterations(self) -> set[int]:
        """Return the iterations that a best value is from."""
        return {it for found in self._found.values() for _, it in found.values()}

    def report(self, scores: Scores) -> str:
        """Return the log entry of a validation, in the format of BasicSR, which `read_log` parses.

        Incomplete means have another format, so that no curve takes them for scores of the data set.
        """
        lines = [f"Validation {scores.dataset}"]
        if scores.failed:
            means = [f"\t # incomplete, {scores.count} images, {m}: {value:.4f}" for m, value in scores.mean().items()]
            return "\n".join(lines + (means or [f"\t # incomplete, {scores.count} images"]))
        for metric, value in scores.mean().items():
            best = self.get(scores.dataset, metric)
            lines.append(f"\t # {metric}: {value:.4f}" + (f"\tBest: {best[0]:.4f} @ {best[1]} iter" if best else ""))
        return "\n".join(lines)

    def state_dict(self) -> dict[str, dict[str, tuple[float, int]]]:
        """Return the best values in plain containers, for a training state."""
        return {dataset: dict(found) for dataset, found in self._found.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Iterable[Any]]]) -> None:
        """Continue from a `state_dict()`; metrics that are no longer computed are forgotten."""
        self._found = {
            dataset: {m: (float(value), int(it)) for m, (value, it) in found.items() if m in self._better}
            for dataset, found in state.items()
        }


@torch.no_grad()
def evaluate(
    predict: Callable[[Tensor], Tensor],
    batches: Iterable[Mapping[str, Any]],
    metrics: Mapping[str, Mapping[str, Any]],
    dataset: str,
    on_image: Callable[[str, Tensor], None] | None = None,
    *,
    on_scores: Callable[[str, Mapping[str, float]], None] | None = None,
    unreadable: Sequence[Unreadable] = (),
    root: str | Path | None = None,
    names: Mapping[str, str] = MappingProxyType({}),
    gather: bool = True,
    form: InputForm = PLAIN_RGB,
) -> Scores:
    """Score every image once. This is the only validation loop: train.py, test.py and every model call it.

    The name of an image is the stem of its `gt_path` (without ground truth: `lq_path`); with `root`, its path relative
    to that folder without the suffix. A second image of the same name becomes `name~2`.

    An image that fails, in the loader, in `predict` or in a metric, is named in the log and has no scores; the others
    go on, as they do where a picture cannot be written.

    Args:
        predict: maps LQ (B, 3, h, w) to SR (B, 3, s*h, s*w), RGB in [0, 1] or in another `form`, and moves it to its
            device.
        batches: of a data loader; those without `gt` are scored by the metrics that need none, such as NIQE. Each of
            several processes passes its own share; an image in two shares, as padded samplers make, counts once.
        metrics: metric name -> spec. "uint8" metrics get clamped and rounded images, "float" ones the raw tensors.
        dataset: name of the data set in the result.
        on_image: called with the name and SR (1, 3, s*h, s*w) of each image, to save it or show it.
        on_scores: called with the name and the scores of each image of this process as soon as they are there.
        unreadable: the images that `batches` has passed over and logged; looked at after the last batch.
        root: the data set's folder.
        names: path -> name of the images of all processes; needed for distinct names in `on_image` when several
            processes share a set with several images of one name.
        gather: merge the shares of all processes; False: only this process calls `evaluate`.
        form: of LQ, SR and GT. Images are scored and handed on as they were before they were normalised.

    Returns:
        The same scores in every process, in the order of the data set if image k was dealt to process k mod world_size.
    """
    alone = {name: spec for name, spec in metrics.items() if not needs_reference(spec)}
    records: list[Record] = []
    unsaved: dict[str, str] = {}
    taken: set[str] = set()
    channels = 0

    def name_of(path: str) -> str:
        return names[path] if path in names else distinct(image_name(path, root), taken)

    for batch in batches:
        sr_batch = _predicted(lambda lq: form.undo(predict(lq)), batch["lq"])
        gt_batch = form.undo(batch["gt"]) if "gt" in batch else None
        scored = gt_batch if gt_batch is not None else sr_batch
        channels = scored.shape[1] if isinstance(scored, Tensor) else channels
        paths = batch["gt_path"] if gt_batch is not None and "gt_path" in batch else batch["lq_path"]
        for k, path in enumerate(paths):
            sr = sr_batch if isinstance(sr_batch, Exception) else sr_batch[k : k + 1]
            gt = None if gt_batch is None else gt_batch[k : k + 1]
            record = _scored(path, name_of(path), sr, gt, alone if gt is None else metrics)
            records.append(record)
            if record.failure:
                logger.error("%s: %s. It has no scores; the run goes on with the other images", dataset, record.failure)
            if on_scores is not None and record.scores:
                on_scores(record.name, record.scores)
            if on_image is not None and isinstance(sr, Tensor) and (problem := _problem(on_image, record.name, sr)):
                unsaved[record.name] = problem
                logger.error("%s: the picture of %s is not written: %s", dataset, record.name, problem)
    for image in unreadable:  # at their places, by which the shares of all processes are put in order
        records.insert(image.position, Record(image.path, name_of(image.path), None, image.reason))
    return _gathered(dataset, records, unsaved, metrics, channels, gather, form)


def _predicted(predict: Callable[[Tensor], Tensor], lq: Tensor) -> Tensor | Exception:
    """Return SR, or why there is none: too little memory, or a size that the network does not take."""
    try:
        return predict(lq)
    except READ_ERRORS as error:
        return error


def _scored(
    path: str, name: str, sr: Tensor | Exception, gt: Tensor | None, metrics: Mapping[str, Mapping[str, Any]]
) -> Record:
    """Return the record of an image, scored by `metrics`; `sr` and `gt` are (1, C, H, W)."""
    if isinstance(sr, Exception):
        return Record(path, name, None, reason_of(sr, path))
    try:
        is_scored = gt is not None or metrics
        return Record(path, name, _score(sr, gt, metrics) if is_scored else None)
    except READ_ERRORS as error:
        return Record(path, name, None, reason_of(error, path))


def _problem(on_image: Callable[[str, Tensor], None], name: str, sr: Tensor) -> str:
    """Call `on_image`; return why it fails, "" where it does not."""
    try:
        on_image(name, sr)
    except READ_ERRORS as error:
        reason = (isinstance(error, OSError) and error.strerror) or first_line(error)
        return f"{reason}; make room, or give write access"
    return ""


def _gathered(
    dataset: str,
    records: list[Record],
    unsaved: dict[str, str],
    metrics: Mapping[str, Mapping[str, Any]],
    channels: int,
    gather: bool,
    form: InputForm,
) -> Scores:
    """Return the scores in the records of all processes, of this one alone without `gather`."""
    shares = gather_objects((records, unsaved, channels)) if gather else [(records, unsaved, channels)]
    channels = max(share[2] for share in shares) or 3  # a process may have no images
    merged = merge_records([share[0] for share in shares])
    return Scores(
        dataset,
        {record.name: record.scores for record in merged if record.scores is not None},
        {metric: describe(spec, channels, luma=form.color == "y") for metric, spec in metrics.items()},
        {record.name: record.failure for record in merged if record.failure},
        {name: reason for share in shares for name, reason in share[1].items()},
    )


def merge_records(shares: Sequence[list[Record]]) -> list[Record]:
    """Return the records of all processes, each path once.

    The shares are interleaved, which restores the order of images dealt in turn. Of two paths with the same name, the
    later becomes `name~2`.
    """
    merged: list[Record] = []
    seen: set[str] = set()
    taken: set[str] = set()
    for record in chain.from_iterable(zip_longest(*shares)):
        if record is not None and record.path not in seen:
            seen.add(record.path)
            merged.append(record._replace(name=distinct(record.name, taken)))
    return merged


def _score(sr: Tensor, gt: Tensor | None, metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the score of an image in every metric; `sr` and `gt` are (1, 3, H, W), without ground truth None."""
    data: dict[Callable[[Tensor], Any], dict[str, Any]] = {}
    scores = {}
    for name, spec in metrics.items():
        convert = conversion(spec)
        if convert not in data:
            data[convert] = {"img": convert(sr), **({} if gt is None else {"img2": convert(gt.to(sr.device))})}
        scores[name] = float(calculate_metric(data[convert], spec))
    return scores


def conversion(spec: Mapping[str, Any]) -> Callable[[Tensor], Any]:
    """Return the function from a tensor (1, 3, H, W) to the input of a metric: its `convert`, or its protocol's."""
    convert = getattr(METRIC_REGISTRY.get(spec["type"]), "convert", None)
    return convert if convert is not None else CONVERSIONS[protocol(spec)]
