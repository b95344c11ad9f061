"""Measure every mask that a search chooses among: the ground truth for the one that it learns.

    python scripts/rank_masks.py -opt options/train/prune/01_search_XS_x4.yml --recover 300 --masks sample:16 \
        --search experiments/search_XS_x4

First, for every mask within the budget of the option file: the scores on its `val` sets of the teacher with the dropped
groups cut out, without training, with the teacher's tail. Then, with --recover, for all or some masks: the scores after
N iterations of stage finetune as the search emits it (`train` overridden by `compact.finetune`), from the teacher's
groups. The seed is the same for all masks, so they see the same patches.

Writes a CSV file after each mask (scripts/prune_report.py draws it), and with the same stem .json, the settings of the
measurements, and .md, the summary. An interrupted run continues where it was; one with more masks adds them.

How far a ranking can be trusted shows in a second one, which a third call compares with the first:

    ... --recover 300 --batch 4 --patch 48 --seed 1 -o seed1.csv
    ... --recover 300 --batch 4 --patch 48 --seed 2 -o seed2.csv
    ... --recover 300 --batch 4 --patch 48 --seed 1 -o seed1.csv --seeds seed2.csv
"""

import argparse
import json
from pathlib import Path
from typing import Any

from basicsr.config.load import load_options
from basicsr.config.schema import Options
from basicsr.data.loaders import build_test_loader
from basicsr.engine.atomic import write_atomically
from basicsr.engine.checkpoint import sha256_of
from basicsr.engine.device import keep_freed_memory
from basicsr.errors import CheckpointError, ImageReadError, OptionError, UnknownNameError
from basicsr.text import tolerate_encoding
from mask_ranking.candidates import (
    chosen_masks,
    is_mask,
    mask_choice,
    masks_within_budget,
    measured_latency,
    read_search,
    uniform_of,
)
from mask_ranking.measure import CutTeacher, HeldImages, Recovery, measure_recovered, measure_zero_shot
from mask_ranking.summary import summary
from mask_ranking.table import ZERO_SHOT, Table


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Exit code 0: all is measured; 1: a loss was not finite; 2: error in arguments, options or files.
    """
    tolerate_encoding()
    parser, args = _parse(argv)
    keep_freed_memory()
    try:
        text = rank(args)
    except (OptionError, UnknownNameError, CheckpointError, ImageReadError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {' '.join(str(error).split())}\n")
    except FloatingPointError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    print(text)
    print(f"{args.output} written, with this text as .md and the settings as .json")
    return 0


def _parse(argv: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        prog="rank_masks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-opt", required=True, metavar="X.yml", help="options of the search")
    parser.add_argument("--zero-shot", action="store_true", help="measure all masks untrained; --recover does so, too")
    parser.add_argument("--recover", type=int, metavar="N", help="iterations of fine-tuning, for each of --masks")
    parser.add_argument(
        "--masks",
        type=mask_choice,
        nargs="+",
        default=["all"],
        metavar="MASK",
        help="to recover: all (default); sample:M, the M at evenly spaced ranks of the zero-shot ranking from best to "
        "worst, plus the learned and the uniform mask; or masks such as 10010001",
    )
    parser.add_argument(
        "--search", type=Path, metavar="FOLDER", help="of the finished search: its mask, p of all masks"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="CSV", help="default: rank_masks.csv in the folder of --search, or here"
    )
    parser.add_argument("--batch", type=int, metavar="B", help="images of a batch in the recovery")
    parser.add_argument("--patch", type=int, metavar="P", help="side in px of low-resolution patches in the recovery")
    parser.add_argument("--seed", type=int, metavar="S", help="of the recovery: manual_seed")
    parser.add_argument(
        "--seeds",
        type=Path,
        nargs="+",
        default=[],
        metavar="CSV",
        help="files of the same measurements with other seeds: is the ranking within noise?",
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
    return parser, args


def rank(args: argparse.Namespace) -> str:
    """Measure all masks that have no scores yet; return the summary.

    Raises:
        OptionError: and other errors of options and files.
    """
    opt = load_options(args.opt, [*args.force_yml, *overrides(args)], is_train=True)
    check_options(opt)
    teacher = CutTeacher(opt)
    latency = measured_latency(args.search) if args.search else None
    masks, resources = masks_within_budget(opt, teacher.whole, teacher.device, latency)
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
    seeds = {path.name: table.other_seed(path) for path in args.seeds}
    text = summary(opt, table, learned.mask if learned else None, uniform, seeds)
    write_atomically(args.output.with_suffix(".md"), text)
    return text


def overrides(args: argparse.Namespace) -> list[str]:
    """Return --batch, --patch and --seed as overrides of options."""
    values = {"datasets:train:batch_size_per_gpu": args.batch, "manual_seed": args.seed}
    if args.patch is not None:
        values["datasets:train:gt_size"] = args.patch * load_options(args.opt, args.force_yml, is_train=True).scale
    return [f"{key}={value}" for key, value in values.items() if value is not None]


def check_options(opt: Options) -> None:
    """Check that the options are those of a search that can be validated.

    Raises:
        OptionError: naming the missing key.
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


def settings_of(opt: Options, masks: list[str], recovery: Recovery | None) -> dict[str, Any]:
    """Return the settings that each part of the measurements depends on, as plain values."""
    values = opt.to_minimal_dict()
    val = values["val"]
    zero_shot = {
        "teacher_sha256": sha256_of(str(opt.path.pretrain_network_t)),
        "scale": opt.scale,
        "network_t": values["network_t"],
        "datasets": {key: values["datasets"][key] for key in opt.datasets_of("val")},
        "val": {key: val[key] for key in ("metrics", "amp", "self_ensemble") if key in val},
        "masks": masks,
    }
    settings = {"zero_shot": zero_shot, "recovered": recovery.settings() if recovery is not None else None}
    return json.loads(json.dumps(settings))  # lists for tuples, as in the file


if __name__ == "__main__":
    raise SystemExit(main())
