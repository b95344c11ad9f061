"""Measure every mask that a search chooses among: the ground truth for the one that it learns.

    python scripts/rank_masks.py -opt options/train/prune/01_search_XS_x4.yml --recover 300 --masks sample:16 \
        --search experiments/search_XS_x4

First, for every mask within the budget of the option file: the scores on its `val` sets of the teacher with the dropped
groups cut out, nothing trained, the teacher's tail kept. Then, with --recover, for all or some masks: the scores after
N iterations of stage finetune as the search emits it (`train` overridden by `compact.finetune`), from the teacher's
groups. The seed is the same for all masks, so they see the same patches.

Writes a CSV file after each mask (scripts/prune_report.py draws it), and beside it .json, what the scores were made
with, and .md, the summary. A run that was stopped goes on where it was; one with more masks adds them.
"""

import argparse
import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from basicsr.archs.prunable import Prunable
from basicsr.config.convert import build_section
from basicsr.config.load import load_options, resolve
from basicsr.config.location import Location
from basicsr.config.pruning import PruneOptions
from basicsr.config.schema import Options
from basicsr.config.section import Spec
from basicsr.config.validation import check
from basicsr.data.loaders import TestLoader, build_test_loader, build_train_loader
from basicsr.engine.atomic import write_atomically
from basicsr.engine.device import keep_freed_memory
from basicsr.engine.random_state import seed_everything
from basicsr.engine.run import USER_ERRORS
from basicsr.errors import OptionError
from basicsr.metrics import describe
from basicsr.models import build_model
from basicsr.models.base_model import BaseModel
from basicsr.models.prune_distill_model import blamed
from basicsr.models.sr_model import SRModel
from basicsr.pruning.compaction import compact, kept_groups, network_spec, with_tail
from basicsr.pruning.costs import Resource, group_resources
from basicsr.pruning.distillation import load_teacher
from basicsr.pruning.finalize import finetune_options, sha256
from basicsr.pruning.plots import kept_text, rank_correlation
from basicsr.pruning.samplers import MAX_MASKS, build_sampler, check_forced, feasible_masks, uniform_mask
from basicsr.train import batches

ZERO_SHOT, RECOVERED, P = "zero_shot_psnr", "recovered_psnr", "p"
FIRST_COLUMNS = ("mask", "kept", ZERO_SHOT, RECOVERED, P)
NAMES = {ZERO_SHOT: "zero-shot PSNR", RECOVERED: "recovered PSNR", P: "p"}
DECIMALS, P_DIGITS = 6, 6  # of what is written; rounded when measured, so that a resumed run sees the same numbers
PARTS = ("zero_shot", "recovered")
ANEW = "name another file by -o, or delete it to begin anew"
Row = dict[str, float]  # column -> value; what is not known is not there


class Learned(NamedTuple):
    """What a search decided."""

    mask: str
    p: dict[str, float]  # probability of each mask that its sampler ranks


class HeldImages(list[dict[str, Any]]):
    """The images of a `TestLoader`, read once, for many validations."""

    def __init__(self, loader: TestLoader):
        super().__init__(loader)
        self.name = loader.name
        self.root = loader.root


class CutTeacher(SRModel):
    """The teacher, untrained, with whatever groups are left.

    Args:
        opt: of the search.
    """

    def __init__(self, opt: Options):
        super().__init__(replace(opt, is_train=False, val=replace(opt.val, pbar=False)))

    def build_net_g(self) -> nn.Module:
        """The whole teacher."""
        path = self.opt.path
        with blamed(self.opt):
            self.whole = load_teacher(
                self.opt["network_t"], str(path.pretrain_network_t), path.param_key_t, self.device
            )
            if not isinstance(self.whole, Prunable):
                raise ValueError(
                    f"network_t.type: {type(self.whole).__name__} declares no residual groups; see archs/prunable.py"
                )
        return self.whole

    def keep(self, mask: str) -> None:
        """Leave the groups of `mask` alone."""
        self.net_g = compact(self.whole, kept_groups(bits(mask)))


class Recovery:
    """Fine-tuning of what a mask keeps of the teacher, as the search would emit it, for `iterations`.

    Args:
        opt: of the search.
        whole: the teacher.
        mask: any, to check the options with.
        iterations: in place of `train.total_iter`, and of the period of CosineAnnealingRestartLR.

    Raises:
        OptionError: when the options do not fit each other, or a warm-up takes all iterations.
    """

    def __init__(self, opt: Options, whole: nn.Module, mask: str, iterations: int):
        self.whole = whole
        self.iterations = iterations
        self.tail = opt.prune.tail if opt.prune else "original"
        with blamed(opt):
            spec = self.network_spec(mask)
        values = finetune_options(opt, spec, kept_groups(bits(mask)), Path(), f"{opt.name}_recovery")
        values["path"] = {key: value for key, value in values["path"].items() if key != "pretrain_network_g"}
        values["val"] = {k: v for k, v in values["val"].items() if k != "expect_teacher_psnr"} | {"pbar": False}
        values["train"] |= {"total_iter": iterations}
        scheduler = values["train"].get("scheduler") or {}
        if scheduler.get("type") == "CosineAnnealingRestartLR":
            others = {key: value for key, value in scheduler.items() if key != "restart_weights"}
            values["train"]["scheduler"] = {**others, "periods": [iterations]}
        options = build_section(Options, values, Location({(): str(opt.source)}))
        check(options, is_train=True)
        warmup = max(options.train.warmup_iter, options.prune.tail_warmup_iter)
        if warmup >= iterations:
            raise OptionError(
                f"--recover {iterations}: must be above the {warmup} iterations of warm-up; raise it, or change "
                "compact:finetune:warmup_iter or prune:tail_warmup_iter by --force_yml"
            )
        self.base: Options = resolve(replace(options, is_train=True, source=opt.source))

    def network_spec(self, mask: str) -> dict[str, Any]:
        """`network_g` of what a mask keeps."""
        small = compact(self.whole, kept_groups(bits(mask)))
        return network_spec(small if self.tail == "original" else with_tail(small, self.tail))

    def options(self, mask: str) -> Options:
        """Of the run for one mask."""
        prune = replace(self.base.prune or PruneOptions(), kept=kept_groups(bits(mask)))
        return replace(self.base, network_g=Spec(self.network_spec(mask)), prune=prune)

    def settings(self) -> dict[str, Any]:
        """What the recovered scores depend on beside the mask and the teacher."""
        values = self.base.to_minimal_dict()
        return {
            "iterations": self.iterations,
            "train_set": values["datasets"]["train"],
            "prune": {key: value for key, value in values["prune"].items() if key != "kept"} | {"tail": self.tail},
            **{key: values.get(key) for key in ("manual_seed", "kd", "train")},
        }


class Table:
    """The measurements: a row for each mask, in a CSV file that is whole at any time, under settings that are kept.

    Args:
        path: of the CSV file; an existing one is continued.
        masks: all masks, in the order of the file.
        metrics: their names.
        settings: part of the measurements -> what it depends on, None while the part is not measured.

    Raises:
        OptionError: when the file was made under other settings, or is damaged.
    """

    def __init__(self, path: Path, masks: Sequence[str], metrics: Iterable[str], settings: Mapping[str, Any]):
        self.path = path
        more = [f"{part}_{metric}" for metric in metrics for part in PARTS]
        self.columns = list(dict.fromkeys([*FIRST_COLUMNS, *more]))
        self.rows: dict[str, Row] = {mask: {} for mask in masks}
        beside = path.with_suffix(".json")
        if path.exists():
            rows, before = read_rows(path), read_settings(path, beside)
            if not any(RECOVERED in row for row in rows.values()):
                before["recovered"] = None
            settings = merged_settings(path, before, settings)
            if list(rows) != list(masks):
                raise OptionError(f"{path}: has lost or gained masks since it was written; {ANEW}")
            self.rows = rows
        self._settings = settings
        write_atomically(beside, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")

    def put(self, mask: str, part: str, scores: Mapping[str, float]) -> None:
        """Enter the scores of a mask and write the file."""
        self.rows[mask] |= {f"{part}_{metric}": round(value, DECIMALS) for metric, value in scores.items()}
        self.write()

    def put_p(self, p: Mapping[str, float]) -> None:
        """Enter the probabilities of all masks in place of those before, and write the file."""
        for mask, row in self.rows.items():
            row.pop(P, None)
            if mask in p:
                row[P] = float(f"{p[mask]:.{P_DIGITS}g}")
        self.write()

    def write(self) -> None:
        """Write the file whole."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        for mask, row in self.rows.items():
            kept = " ".join(map(str, kept_groups(bits(mask))))
            writer.writerow([mask, kept, *(row.get(column, "") for column in self.columns[2:])])
        write_atomically(self.path, text.getvalue())

    @property
    def iterations(self) -> int:
        """Of the recovery; 0: none."""
        return self._settings["recovered"]["iterations"] if self._settings["recovered"] else 0

    def missing(self, masks: Iterable[str], column: str) -> list[str]:
        """Those of `masks` that have no value in a column."""
        return [mask for mask in masks if column not in self.rows[mask]]

    def values(self, column: str) -> dict[str, float]:
        """The masks that have a value, in the order of the file."""
        return {mask: row[column] for mask, row in self.rows.items() if column in row}

    def mean(self, column: str) -> float:
        """Over the masks that have a value."""
        values = self.values(column).values()
        return sum(values) / len(values)

    def ranking(self, column: str) -> list[str]:
        """The masks that have a value, best first; equal ones in the order of the file."""
        values = self.values(column)
        return sorted(values, key=lambda mask: -values[mask])


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 0: all is measured, 1: a loss was not finite, 2: the user's mistake."""
    parser = argparse.ArgumentParser(
        prog="rank_masks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-opt", required=True, metavar="X.yml", help="options of the search")
    parser.add_argument("--zero-shot", action="store_true", help="measure all masks untrained; --recover does so, too")
    parser.add_argument("--recover", type=int, metavar="N", help="iterations of fine-tuning, for each of --masks")
    parser.add_argument(
        "--masks", type=mask_choice, nargs="+", default=["all"], metavar="MASK",
        help="to recover: all (default); sample:M, the M at evenly spaced ranks of the zero-shot ranking from best to "
        "worst, and the learned and the uniform mask besides; or masks such as 10010001",
    )  # fmt: skip
    parser.add_argument(
        "--search", type=Path, metavar="FOLDER", help="of the finished search: its mask, p of all masks"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="CSV", help="default: rank_masks.csv in the folder of --search, or here"
    )
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="a:b=value", help="override options of the file")
    args = parser.parse_args(argv)
    if not args.zero_shot and args.recover is None:
        parser.error("nothing to do; give --zero-shot or --recover N")
    if args.recover is not None and args.recover < 1:
        parser.error(f"--recover must be at least 1, got {args.recover}")
    if len(args.masks) > 1 and not all(map(is_mask, args.masks)):
        parser.error(f"--masks takes all, sample:M or a list of masks, got {' '.join(args.masks)}")
    args.output = args.output or (args.search or Path()) / "rank_masks.csv"
    if args.output.suffix != ".csv":
        parser.error(f"-o must end in .csv, got {args.output}")
    keep_freed_memory()
    try:
        text = rank(args)
    except USER_ERRORS as error:
        parser.exit(2, f"{parser.prog}: {' '.join(str(error).split())}\n")
    except FloatingPointError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    print(text)
    print(f"{args.output} written, with this text as .md and the settings as .json beside it")
    return 0


def rank(args: argparse.Namespace) -> str:
    """Measure what is not measured yet; returns the summary.

    Raises:
        OptionError: and the other `USER_ERRORS`.
    """
    opt = load_options(args.opt, args.force_yml, is_train=True)
    check_options(opt)
    teacher = CutTeacher(opt)
    masks, resources = masks_within_budget(opt, teacher)
    learned = read_search(args.search, masks, resources) if args.search else None
    uniform = uniform_of(masks)
    if wrong := [mask for mask in args.masks if is_mask(mask) and mask not in masks]:
        raise OptionError(
            f"--masks {' '.join(wrong)}: must be among the {len(masks)} masks of {len(masks[0])} groups within the "
            f"budget of {args.opt}, such as {masks[0]}"
        )
    recovery = Recovery(opt, teacher.whole, masks[0], args.recover) if args.recover else None
    table = Table(args.output, masks, opt.val.metrics or {}, settings_of(opt, masks, recovery))
    if learned is not None:
        table.put_p(learned.p)
    sets = [HeldImages(build_test_loader(opt, key)) for key in opt.datasets_of("val")]
    measure_zero_shot(table, teacher, sets)
    if recovery is not None:
        special = [mask for mask in (learned.mask if learned else None, uniform) if mask is not None]
        chosen = chosen_masks(args.masks, table.ranking(ZERO_SHOT), special)
        measure_recovered(table, chosen, recovery, sets)
    text = summary(opt, table, learned.mask if learned else None, uniform)
    write_atomically(args.output.with_suffix(".md"), text)
    return text


def check_options(opt: Options) -> None:
    """Refuse what is no option file of a search that can be validated.

    Raises:
        OptionError: naming what is missing.
    """
    if opt.prune is None:
        raise opt.where.at("prune").error("is missing; give the option file of a search")
    if "network_t" not in opt:
        raise opt.where.at("network_t").error("is missing; the masks cut groups out of the teacher")
    if opt.path.pretrain_network_t is None:
        raise opt.where.at("path.pretrain_network_t").error("is missing; a teacher needs trained weights")
    if not opt.datasets_of("val"):
        raise opt.where.at("datasets").error("has no `val` set to score the masks on")
    if "psnr" not in (opt.val.metrics or {}):
        raise opt.where.at("val.metrics").error(
            "has no metric `psnr` to rank the masks by; add `psnr: {type: calculate_psnr, ...}`"
        )


def masks_within_budget(opt: Options, teacher: CutTeacher) -> tuple[list[str], list[Resource]]:
    """All masks that the search chooses among, and what its groups cost.

    Raises:
        OptionError: when the budget leaves no choice.
    """
    prune = opt.prune or PruneOptions()
    number = len(teacher.whole.prunable_groups())  # type: ignore[operator]
    with blamed(opt):
        check_forced(number, prune.force_keep, prune.force_drop)
        resources = group_resources(teacher.whole, opt.budget, teacher.device)
        found = feasible_masks(number, resources, prune.force_keep, prune.force_drop)
    masks = ["".join(map(str, mask)) for mask in found.tolist()]
    if len(masks) == 1:
        raise opt.where.at("budget").error(
            f"leaves one mask, {masks[0]}, so there is nothing to rank; give the option file of a search"
        )
    return masks, resources


def read_search(folder: Path, masks: Sequence[str], resources: Sequence[Resource]) -> Learned:
    """The mask that a finished search chose, and the probabilities of all masks by its logits.

    Raises:
        OptionError: when there is no report, or it is of a search among other masks.
    """
    path = folder / "prune_report.json"
    if not path.is_file():
        raise OptionError(f"{path}: no such file; name the folder of a search that has ended")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        mask = "".join(map(str, report["mask"]))
        prune = build_section(PruneOptions, report["options"]["prune"], Location({(): str(path)}, ("options", "prune")))
        state = {name: torch.tensor(value) for name, value in report["logits"].items()}
    except OptionError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionError(f"{path}: is no report of a search ({type(error).__name__}: {error})") from error
    try:
        sampler = build_sampler(prune, len(masks[0]), resources)
        sampler.load_state_dict(state)
    except (ValueError, RuntimeError) as error:
        raise OptionError(f"{path}: does not fit the budget of the option file: {error}") from error
    if mask not in masks:
        raise OptionError(f"{path}: chose {mask}, which is not within the budget of the option file; give the search's")
    return Learned(mask, {"".join(map(str, found)): p for found, p in sampler.ranking(MAX_MASKS)})


def uniform_of(masks: Sequence[str]) -> str | None:
    """The evenly spread mask, of as many groups as the budget allows; None where it allows no such mask."""
    for count in sorted({mask.count("1") for mask in masks}, reverse=True):
        mask = "".join(map(str, uniform_mask(len(masks[0]), count)))
        if mask in masks:
            return mask
    return None


def settings_of(opt: Options, masks: Sequence[str], recovery: Recovery | None) -> dict[str, Any]:
    """What each part of the measurements depends on, as plain values."""
    values = opt.to_minimal_dict()
    val = values["val"]
    zero_shot = {
        "teacher_sha256": sha256(str(opt.path.pretrain_network_t)),
        "scale": opt.scale,
        "network_t": values["network_t"],
        "datasets": {key: values["datasets"][key] for key in opt.datasets_of("val")},
        "val": {key: val[key] for key in ("metrics", "amp", "self_ensemble") if key in val},
        "masks": list(masks),
    }
    settings = {"zero_shot": zero_shot, "recovered": recovery.settings() if recovery is not None else None}
    return json.loads(json.dumps(settings))  # lists for tuples, as in the file


def read_settings(path: Path, beside: Path) -> dict[str, Any]:
    """What the file `path` was made with: part of the measurements -> settings.

    Raises:
        OptionError: when the file beside it does not say so.
    """
    try:
        settings = json.loads(beside.read_text(encoding="utf-8"))
        return {part: settings[part] for part in PARTS}
    except FileNotFoundError as error:
        raise OptionError(f"{path}: is there, but not {beside.name}, which says how it was made; {ANEW}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise OptionError(f"{beside}: does not say how {path.name} was made; {ANEW}") from error


def merged_settings(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of what is in a file and of what is added to it.

    Raises:
        OptionError: when they differ in a part that both have.
    """
    for part in PARTS:
        if before[part] and now[part] and before[part] != now[part]:
            text = difference(before[part], now[part], part)
            raise OptionError(f"{path}: was made with other settings: {text}; {ANEW}")
    return {part: now[part] or before[part] for part in PARTS}


def difference(old: Any, new: Any, key: str) -> str:
    """The first thing in which two nested values differ: `recovered.iterations was 300, is 200 now`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in {**old, **new}:
            if old.get(name) != new.get(name):
                return difference(old.get(name), new.get(name), f"{key}.{name}")
    return f"{key} was {old}, is {new} now"


def read_rows(path: Path) -> dict[str, Row]:
    """The rows of a file that this script wrote.

    Raises:
        OptionError: when it is not as it was written.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            head, *lines = csv.reader(file)
        rows = [dict(zip(head, line, strict=True)) for line in lines]
        return {row["mask"]: {name: float(row[name]) for name in head[2:] if row[name]} for row in rows}
    except (ValueError, KeyError, csv.Error) as error:
        raise OptionError(f"{path}: is damaged, or no file of this script ({error}); {ANEW}") from error


def measure_zero_shot(table: Table, teacher: CutTeacher, sets: Sequence[HeldImages]) -> None:
    """Score every mask that has no score yet, nothing trained."""
    masks = table.missing(table.rows, ZERO_SHOT)
    with progress(len(masks), "zero-shot", "mask") as bar:
        for mask in masks:
            teacher.keep(mask)
            table.put(mask, "zero_shot", scores_of(teacher, sets))
            bar.update()


def measure_recovered(table: Table, masks: Sequence[str], recovery: Recovery, sets: Sequence[HeldImages]) -> None:
    """Fine-tune and score those of `masks` that have no score yet.

    Raises:
        FloatingPointError: naming the mask whose loss was not finite.
    """
    masks = table.missing(masks, RECOVERED)
    if not masks:
        return
    loader = build_train_loader(recovery.base)
    with progress(len(masks) * recovery.iterations, "recover", "it") as bar:
        for mask in masks:
            bar.set_postfix_str(mask)
            try:
                model = fine_tuned(recovery.options(mask), loader, bar.update)
            except FloatingPointError as error:
                raise FloatingPointError(f"mask {mask}: {error}") from error
            table.put(mask, "recovered", scores_of(model, sets))


def fine_tuned(opt: Options, loader: DataLoader[Any], on_step: Callable[[], object]) -> BaseModel:
    """The model after the training loop of basicsr/train.py, from the first batches of `loader`."""
    seed_everything(opt.manual_seed)
    model = build_model(opt)
    seed_everything(opt.manual_seed)  # how many numbers the construction drew depends on the mask
    total_iter, warmup_iter = (opt.train.total_iter, opt.train.warmup_iter) if opt.train else (0, -1)
    for it, (_, batch) in zip(range(1, total_iter + 1), batches(loader, 0), strict=False):  # batches() has no end
        model.update_learning_rate(it, warmup_iter)
        model.feed_data(batch)
        model.optimize_parameters(it)
        on_step()
    model.check_finite(total_iter)
    return model


def scores_of(model: BaseModel, sets: Sequence[HeldImages]) -> dict[str, float]:
    """The mean of each metric; over the sets where there are several."""
    means = [model.validation(held, 0, False).mean() for held in sets]
    return {metric: sum(mean[metric] for mean in means) / len(means) for metric in means[0]}


def chosen_masks(wanted: Sequence[str], ranking: Sequence[str], special: Sequence[str]) -> list[str]:
    """The masks that --masks means, best zero-shot first.

    Args:
        ranking: all masks, best zero-shot first.
        special: masks that a sample always holds beside the best and the worst.
    """
    if wanted == ["all"]:
        return list(ranking)
    if not wanted[0].startswith("sample:"):
        return [mask for mask in ranking if mask in wanted]
    count = min(int(wanted[0].removeprefix("sample:")), len(ranking))
    places = {round(k * (len(ranking) - 1) / (count - 1)) for k in range(count)}
    return [mask for place, mask in enumerate(ranking) if place in places or mask in special]


def summary(opt: Options, table: Table, learned: str | None, uniform: str | None) -> str:
    """What the measurements say, as Markdown. The recovered PSNR decides, where there is one."""
    decisive = RECOVERED if table.values(RECOVERED) else ZERO_SHOT
    ranking = table.ranking(decisive)
    roles = {"best": ranking[0], "median": ranking[len(ranking) // 2], "worst": ranking[-1]}
    if decisive == RECOVERED:
        roles["best zero-shot"] = table.ranking(ZERO_SHOT)[0]
    roles |= {name: mask for name, mask in (("learned", learned), ("uniform", uniform)) if mask is not None}
    lines = standings(table, roles, decisive)
    remarks = [
        conditions(opt, table),
        f"Mean {NAMES[decisive]} of {len(ranking)} masks: {table.mean(decisive):.4f} dB, "
        f"{table.values(decisive)[ranking[0]] - table.mean(decisive):.4f} below the best.",
        *correlations(table),
    ]
    if learned is not None:
        text = regret(table, decisive, learned)
        remarks.append(f"Regret of the learned mask in {NAMES[decisive]}: {text + ' dB' if text else 'not measured'}.")
    return "\n".join([f"# Masks of {opt.name}", "", *lines, "", *(f"- {remark}" for remark in remarks), ""])


def conditions(opt: Options, table: Table) -> str:
    """What was measured."""
    sets = ", ".join(options.name or key for key, options in opt.datasets_of("val").items())
    protocol = describe((opt.val.metrics or {})["psnr"])
    number = len(table.values(RECOVERED))
    recovered = f", {number} of them recovered by {table.iterations} iterations" if number else ""
    return f"{len(table.rows)} masks of {opt.path.pretrain_network_t}{recovered}; PSNR in dB on {sets} ({protocol})."


def standings(table: Table, roles: Mapping[str, str], decisive: str) -> list[str]:
    """The lines of a Markdown table: the values and ranks of some masks, and how far they are from the best."""
    columns = [column for column in NAMES if table.values(column)]
    head = ["", "mask", "groups", *(text for c in columns for text in (NAMES[c], "rank")), "regret (dB)"]
    lines = [head, ["---"] * 3 + ["---:"] * (len(head) - 3)]
    for name, mask in roles.items():
        cells = [cell for column in columns for cell in standing(table.values(column), mask)]
        lines.append([name, mask, kept_text(mask), *cells, regret(table, decisive, mask) or "–"])
    return [f"| {' | '.join(line)} |" for line in lines]


def regret(table: Table, column: str, mask: str) -> str:
    """How far a mask is below the best, as text; empty where it is not measured."""
    values = table.values(column)
    return f"{max(values.values()) - values[mask]:.4f}" if mask in values else ""


def standing(values: Mapping[str, float], mask: str) -> tuple[str, str]:
    """The value of a mask and its rank, as text; equal values share the best rank."""
    if mask not in values:
        return "–", "–"
    better = sum(value > values[mask] for value in values.values())
    return f"{values[mask]:.4f}", f"{better + 1} of {len(values)}"


def correlations(table: Table) -> Iterator[str]:
    """How well one column predicts the order of another: Spearman's rank correlation."""
    for first, second in ((ZERO_SHOT, RECOVERED), (P, RECOVERED), (P, ZERO_SHOT)):
        x, y = table.values(first), table.values(second)
        both = [mask for mask in x if mask in y]
        if len(both) > 1:
            rho = rank_correlation([x[mask] for mask in both], [y[mask] for mask in both])
            yield f"Spearman correlation of {NAMES[first]} and {NAMES[second]}, {len(both)} masks: {rho:.3f}."


def progress(total: int, title: str, unit: str) -> tqdm:
    """A progress bar; where it is no terminal, a line every 10 seconds."""
    return tqdm(total=total, desc=title, unit=unit, mininterval=0.5 if sys.stderr.isatty() else 10)


def bits(mask: str) -> list[int]:
    """A mask as numbers 0 and 1."""
    return [int(bit) for bit in mask]


def is_mask(text: str) -> bool:
    """Whether a text is bits."""
    return re.fullmatch("[01]+", text) is not None


def mask_choice(text: str) -> str:
    """`all`, `sample:M` with M at least 2, or a mask."""
    if text != "all" and not is_mask(text) and (not re.fullmatch(r"sample:\d+", text) or int(text[7:]) < 2):
        raise argparse.ArgumentTypeError(
            f"expected all, sample:M with M at least 2, or a mask of 0 and 1, got {text!r}"
        )
    return text


if __name__ == "__main__":
    raise SystemExit(main())
