"""The only validation loop, and its results: the scores of every image, and the best means so far."""

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from basicsr.config.registry import METRIC_REGISTRY
from basicsr.engine.distributed import gather_objects
from basicsr.images.files import to_pixels
from basicsr.images.names import distinct, image_name
from basicsr.metrics import calculate_metric, describe, direction, protocol
from basicsr.text import ERRORS, write_text

CONVERSIONS: dict[str, Callable[[Tensor], Any]] = {"uint8": to_pixels, "float": lambda image: image}  # by protocol
Record = tuple[str, str, dict[str, float]]  # path, name and scores of an image


@dataclass
class Scores:
    """The scores of one data set."""

    dataset: str
    per_image: dict[str, dict[str, float]]
    """image name -> metric name -> score, in the order of the data set."""
    protocols: dict[str, str] = field(default_factory=dict)
    """metric name -> how it was computed ("uint8, Y, crop 4")."""

    def mean(self) -> dict[str, float]:
        """Return the mean over images of each metric; inf if one image has it, {} without images."""
        columns: dict[str, list[float]] = {}
        for scores in self.per_image.values():
            for metric, value in scores.items():
                columns.setdefault(metric, []).append(value)
        return {metric: sum(values) / len(values) for metric, values in columns.items()}

    def table(self) -> str:
        """Return a Markdown table: a row for each image, the mean last; the head names each protocol."""
        mean = self.mean()
        head = [self.dataset] + [f"{m} ({self.protocols[m]})" if m in self.protocols else m for m in mean]
        rows = [*self.per_image.items(), ("**mean**", mean)]
        lines = [head, ["---"] + ["---:"] * len(mean)]
        lines += [[name, *(f"{scores[metric]:.4f}" for metric in mean)] for name, scores in rows]
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
        }

    def to_json(self, path: str | Path) -> None:
        """Write `to_plain()` as a JSON file."""
        text = json.dumps(self.to_plain(), indent=2, ensure_ascii=False)
        write_text(_with_parents(path), f"{text}\n")

    def to_csv(self, path: str | Path) -> None:
        """Write a CSV file: a row for each image, the mean last."""
        mean = self.mean()
        with _with_parents(path).open("w", newline="", encoding="utf-8", errors=ERRORS) as file:
            writer = csv.writer(file)
            writer.writerow(["image", *mean])
            for name, scores in [*self.per_image.items(), ("mean", mean)]:
                writer.writerow([name, *(scores[metric] for metric in mean)])


class Best:
    """The best mean of each data set and metric so far, and its iteration.

    Args:
        metrics: metric name -> spec; see `direction` for which scores are better.
    """

    def __init__(self, metrics: Mapping[str, Mapping[str, Any]]) -> None:
        self._better = {name: direction(spec) for name, spec in metrics.items()}
        self._found: dict[str, dict[str, tuple[float, int]]] = {}

    def update(self, scores: Scores, it: int) -> list[str]:
        """Record the means of iteration `it`; return the metrics with a new best. nan is never best."""
        found = self._found.setdefault(scores.dataset, {})
        improved = []
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
        """Return the log entry of a validation, in the format of BasicSR, which `read_log` parses."""
        lines = [f"Validation {scores.dataset}"]
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
    root: str | Path | None = None,
    names: Mapping[str, str] = MappingProxyType({}),
    gather: bool = True,
) -> Scores:
    """Score every image once. This is the only validation loop: train.py, test.py and every model call it.

    The name of an image is the stem of its `gt_path` (without ground truth: `lq_path`); with `root`, its path relative
    to that folder without the suffix. A second image of the same name becomes `name~2`.

    Args:
        predict: maps LQ (B, 3, h, w) to SR (B, 3, s*h, s*w), RGB in [0, 1], and moves it to its device.
        batches: of a data loader; those without `gt` are predicted but not scored. Each of several processes passes its
            own share; an image in two shares, as padded samplers make, counts once.
        metrics: metric name -> spec. "uint8" metrics get clamped and rounded images, "float" ones the raw tensors.
        dataset: name of the data set in the result.
        on_image: called with the name and SR (1, 3, s*h, s*w) of each image, to save it or show it.
        root: the data set's folder.
        names: path -> name of the images of all processes; needed for distinct names in `on_image` when several
            processes share a set with several images of one name.
        gather: merge the shares of all processes; False: only this process calls `evaluate`.

    Returns:
        The same scores in every process, in the order of the data set if image k was dealt to process k mod world_size.

    Raises:
        ValueError: from a metric (SR and GT of different sizes), naming the image.
    """
    records: list[Record] = []
    taken: set[str] = set()
    channels = 0
    for batch in batches:
        sr_batch = predict(batch["lq"])
        gt_batch = batch["gt"].to(sr_batch.device) if "gt" in batch else None
        paths = batch["gt_path"] if gt_batch is not None and "gt_path" in batch else batch["lq_path"]
        for k, path in enumerate(paths):
            name = names[path] if path in names else distinct(image_name(path, root), taken)
            sr = sr_batch[k : k + 1]
            if gt_batch is not None:
                channels = gt_batch.shape[1]
                try:
                    records.append((path, name, _score(sr, gt_batch[k : k + 1], metrics)))
                except ValueError as error:
                    raise ValueError(f"{dataset}, image {name}: {error}") from error
            if on_image is not None:
                on_image(name, sr)
    channels = max(gather_objects(channels) if gather else [channels]) or 3  # a process may have no images
    protocols = {metric: describe(spec, channels) for metric, spec in metrics.items()}
    return Scores(dataset, gather_scores(records, everywhere=gather), protocols)


def gather_scores(records: list[Record], everywhere: bool = True) -> dict[str, dict[str, float]]:
    """Merge the scores of all processes into name -> scores, each path once; return the same in all processes.

    The shares are interleaved, which restores the order of images dealt in turn. Of two paths with the same name, the
    later becomes `name~2`. With `everywhere` False, only the records of this process count.
    """
    merged: dict[str, dict[str, float]] = {}
    seen: set[str] = set()
    taken: set[str] = set()
    for record in chain.from_iterable(zip_longest(*(gather_objects(records) if everywhere else [records]))):
        if record is not None and record[0] not in seen:
            path, name, scores = record
            seen.add(path)
            merged[distinct(name, taken)] = scores
    return merged


def _score(sr: Tensor, gt: Tensor, metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the score of an image in every metric; `sr` and `gt` are (1, 3, H, W)."""
    data: dict[Callable[[Tensor], Any], dict[str, Any]] = {}
    scores = {}
    for name, spec in metrics.items():
        convert = conversion(spec)
        if convert not in data:
            data[convert] = {"img": convert(sr), "img2": convert(gt)}
        scores[name] = float(calculate_metric(data[convert], spec))
    return scores


def conversion(spec: Mapping[str, Any]) -> Callable[[Tensor], Any]:
    """Return the function from a tensor (1, 3, H, W) to the input of a metric: its `convert`, or its protocol's."""
    convert = getattr(METRIC_REGISTRY.get(spec["type"]), "convert", None)
    return convert if convert is not None else CONVERSIONS[protocol(spec)]


def _with_parents(path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
