"""Score a folder of restored images against the ground truth, in every protocol that papers use.

    python scripts/metrics/calculate_psnr_ssim.py --gt datasets/Set5/GT --restored results/x/Set5 --scale 4
    python scripts/metrics/calculate_psnr_ssim.py --gt A --restored B --paper ATD

A protocol is: Y or RGB, pixels cropped on each side (0 or the scale), and whether images are first cut to a multiple of
the scale ("mod-crop"). PSNR and SSIM are those of 8-bit files. Papers that score the network's output before rounding
(CATANet; ATD-U for PSNR) cannot be reproduced from files to the last digit; the output marks them.

Names match when they are equal, or differ by a suffix such as _x4, _SRx4, _HR or _<network>. Images without a match, in
name or size, are left out with a warning, as are those that cannot be read.

Exit code: 0, images were scored; 2, none were, or some cannot be read.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import yaml

from basicsr.engine.parallel import in_parallel
from basicsr.images.files import list_images, read_image
from basicsr.images.names import distinct_names
from basicsr.metrics.evaluate import Scores
from basicsr.metrics.psnr_ssim import calculate_psnr, calculate_ssim
from basicsr.text import tolerate_encoding

PUBLISHED = Path(__file__).parents[2] / "docs" / "published_results.yml"
# Not in that file: the option files and model zoo of BasicSR score RGB of 8-bit images.
MORE_PAPERS = {"BasicSR": {"psnr": "uint8, RGB, scale", "ssim": "uint8, RGB, scale"}}
# Suffixes that networks, data sets and scripts add to the name of an image.
_SUFFIX = re.compile(
    r"[_\-. ]?(x\d|\dx|srx\d|srf[_-]?\d|hr|lr|sr|gt|out|output|result|restored|bicubic)$", re.IGNORECASE
)
_SCALE = re.compile(r"(?:^|[_\-. ]|sr)x(\d)(?:$|[_\-. ])|srf[_-]?(\d)", re.IGNORECASE)


class Protocol(NamedTuple):
    """How two 8-bit images are compared."""

    luma: bool
    crop: int
    multiple: int
    """images are first cut at the bottom right to a multiple of this; 1: they are not cut."""

    def __str__(self) -> str:
        cut = f", cut to a multiple of {self.multiple}" if self.multiple > 1 else ""
        return f"{'Y' if self.luma else 'RGB'}, crop {self.crop}{cut}"


class Pair(NamedTuple):
    """Two files and the protocols to compare them in."""

    name: str
    gt: Path
    restored: Path
    protocols: Sequence[Protocol]
    scale: int


class Result(NamedTuple):
    """Scores of a pair, and a warning."""

    name: str
    scores: dict[str, float]
    warning: str
    divides: bool
    """both sides of the ground truth are multiples of the scale, so that mod-crop makes no difference."""
    failure: str = ""
    """why a file cannot be read; the warning says it as well."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    tolerate_encoding()
    parser = argparse.ArgumentParser(
        prog="calculate_psnr_ssim", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gt", type=Path, required=True, metavar="FOLDER", help="ground truth")
    parser.add_argument("--restored", type=Path, required=True, metavar="FOLDER", help="restored images, or one suffix")
    parser.add_argument("--scale", type=int, metavar="N", help="default: from the names (_x4), else 1")
    parser.add_argument("--paper", metavar="NAME", help=f"mark the protocol of: {', '.join(papers())}")
    parser.add_argument("--suffix", metavar="S", help="suffix of the restored names only, such as _x4")
    parser.add_argument("--crop_border", type=int, metavar="PX", help="a crop besides 0 and the scale")
    parser.add_argument("--test_y_channel", action="store_true", help="Y only")
    parser.add_argument("--per-image", action="store_true", help="print the scores of every image")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all scores")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    args = parser.parse_args(argv)
    if min(args.workers, args.scale or 1) < 1 or (args.crop_border or 0) < 0:
        parser.error("--scale and --workers must be at least 1, --crop_border at least 0")
    if args.paper and not protocols_of(args.paper):
        parser.error(f"--paper: unknown, got {args.paper!r}; known are {', '.join(papers())}")
    try:
        matched, warnings = match(list_images(args.gt), list_images(args.restored), args.suffix)
        if not matched:
            raise ValueError(f"{args.restored}: no image has the name of one in {args.gt}; try --suffix")
        scale = args.scale or scale_in([*(str(b) for _, b in matched), args.restored.name, args.gt.name])
        if not args.scale:
            warnings.append(f"the scale is assumed to be {scale}; set it by --scale")
        protocols = list(protocols_for(scale, args.crop_border, args.test_y_channel))
        names = distinct_names([args.gt / a for a, _ in matched], args.gt)
        pairs = [Pair(names[str(args.gt / a)], args.gt / a, args.restored / b, protocols, scale) for a, b in matched]
        results = list(in_parallel(score, pairs, min(args.workers, len(pairs))))
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    warnings += [result.warning for result in results if result.warning]
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    scored = [result for result in results if result.scores]
    if not scored:
        parser.exit(2, f"{parser.prog}: no pair of images can be compared\n")
    shared = [key for key in scored[0].scores if all(key in result.scores for result in scored)]
    if all(result.divides for result in scored):
        shared = [key for key in shared if "multiple" not in key]
    failed = {result.name: result.failure for result in results if result.failure}
    per_image = {result.name: {key: result.scores[key] for key in shared} for result in scored}
    scores = Scores(args.restored.name, per_image, failed=failed)
    if args.json:
        scores.to_json(args.json)
    if args.per_image:
        print(scores.table(), end="\n\n")
    print("\n".join(summary(scores, scale, args.paper)))
    return 2 if failed else 0


def papers() -> list[str]:
    """Return the names that --paper accepts."""
    return list(dict.fromkeys([*MORE_PAPERS, *(entry["network"] for entry in _published()["tables"])]))


def protocols_of(paper: str) -> list[dict[str, str]]:
    """Return the protocols of a paper, one for each task: `psnr` and `ssim`, each as "uint8, Y, scale"."""
    if paper in MORE_PAPERS:
        return [MORE_PAPERS[paper]]
    source = _published()
    of_paper = [e["protocol"] for e in source["tables"] if paper in (e["network"], e["network"].split(" ")[0])]
    return [source["protocols"][name] for name in dict.fromkeys(of_paper)]


def match(
    gt_names: Sequence[str], restored_names: Sequence[str], suffix: str | None = None
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return pairs of names, and warnings about names without a partner. Names are relative paths; folders may differ.

    Raises:
        ValueError: when two restored images match the same name.
    """
    taken: dict[str, str] = {}
    warnings = []
    exact: dict[str, list[str]] = {}
    tolerant: dict[str, list[str]] = {}
    for name in gt_names:
        exact.setdefault(_stem(name), []).append(name)
        tolerant.setdefault(_bare(_stem(name)), []).append(name)
    for restored in restored_names:
        stem = _stem(restored)
        if suffix and stem.endswith(suffix):
            stem = stem.removesuffix(suffix)
        found = _nearest(PurePosixPath(restored).with_name(stem), restored, exact.get(stem, []))
        found = found or tolerant.get(_bare(stem), [])
        if not found:  # a name and a suffix added by a network; the longest such name
            prefixes = [bare for bare in tolerant if re.match(re.escape(bare) + r"[_\-. ]", stem, re.IGNORECASE)]
            found = tolerant[max(prefixes, key=len)] if prefixes else []
        if not found:
            warnings.append(f"{restored}: has no ground truth; it is left out")
        elif len(found) > 1:
            warnings.append(f"{restored}: may belong to {' or '.join(found)}; it is left out (rename, or use --suffix)")
        elif found[0] in taken:
            raise ValueError(
                f"{taken[found[0]]} and {restored} would both belong to {found[0]}; name one suffix by --suffix"
            )
        else:
            taken[found[0]] = restored
    warnings += [f"{name}: has no restored image; the means are without it" for name in gt_names if name not in taken]
    return [(name, taken[name]) for name in gt_names if name in taken], warnings


def _nearest(path: PurePosixPath, restored: str, candidates: list[str]) -> list[str]:
    """Return those of several ground truths of one stem that lie in the same subfolder, then of the same suffix."""
    same_folder = [name for name in candidates if PurePosixPath(name).with_suffix("") == path]
    same_suffix = [name for name in same_folder if PurePosixPath(name).suffix == PurePosixPath(restored).suffix]
    return candidates if len(candidates) < 2 else same_suffix or same_folder or candidates


def scale_in(names: Sequence[str]) -> int:
    """Return the scale in the names, if they agree; else 1."""
    found = {int(hit[1] or hit[2]) for name in names if (hit := _SCALE.search(PurePosixPath(name).stem))}
    return found.pop() if len(found) == 1 else 1


def protocols_for(scale: int, crop: int | None, luma_only: bool) -> Iterator[Protocol]:
    """Yield all combinations of channel, crop and mod-crop."""
    crops = [0, scale] if crop is None else [0, scale, crop]
    for luma, px, multiple in product([True] if luma_only else [True, False], dict.fromkeys(crops), {1: 0, scale: 0}):
        if scale > 1 or px in (0, crop):
            yield Protocol(luma, px, multiple)


def score(pair: Pair) -> Result:
    """Return PSNR and SSIM of two files in each protocol, under keys like `psnr <protocol>`.

    Without mod-crop there is no score where the restored image is smaller by less than the scale, as from networks.
    """
    try:
        images = read_image(pair.gt), read_image(pair.restored)
    except (ValueError, OSError) as error:
        return Result(pair.name, {}, f"{error}; it is left out", True, str(error))
    gt, restored = _gray_if_gray(*images)
    if gt.dtype != np.uint8 or restored.dtype != np.uint8:
        return Result(
            pair.name, {}, f"{pair.name}: has 16 bits a channel; protocols are of 8 bits, it is left out", True
        )
    size, other = gt.shape[:2], restored.shape[:2]
    divides = not any(side % pair.scale for side in size)
    expected = tuple(side - side % pair.scale for side in size)
    warning = ""
    if size != other:
        sizes = f"{pair.name}: is {other[1]}x{other[0]} px, the ground truth {size[1]}x{size[0]}"
        if other != expected:
            return Result(pair.name, {}, f"{sizes}; it is left out", divides)
        warning = f"{sizes}; that is cut to a multiple of {pair.scale} in all protocols"
    scores = {}
    for protocol in pair.protocols:
        if protocol.multiple == 1 and size != other and pair.scale > 1:
            continue
        height, width = (side - side % protocol.multiple for side in size)
        parts = gt[:height, :width], restored[:height, :width]
        how = {"crop_border": protocol.crop, "test_y_channel": protocol.luma}
        for name, metric in (("psnr", calculate_psnr), ("ssim", calculate_ssim)):
            try:
                scores[f"{name} {protocol}"] = metric(*parts, **how)  # type: ignore[arg-type]
            except ValueError as error:
                warning = f"{pair.name}: {error}"
    return Result(pair.name, scores, warning, divides)


def summary(scores: Scores, scale: int, paper: str | None) -> Iterator[str]:
    """Yield the lines of a Markdown table of means, with the papers that use each protocol."""
    means = scores.mean()
    keys = list(dict.fromkeys(key.split(" ", 1)[1] for key in means))
    count = scores.count if scores.failed else len(scores.per_image)
    yield f"{scores.dataset}: {count} images, scale {scale}\n"
    yield "| protocol (8 bits) | PSNR | SSIM | used by |"
    yield "|---|---:|---:|---|"
    for key in keys:
        users = []
        for name in papers():
            fitting = [found for found in protocols_of(name) if key == _key_of(found["psnr"], scale, keys)]
            if fitting:
                unrounded = any(text.startswith("float") for found in fitting for text in found.values())
                label = f"{name} (unrounded)" if unrounded else name
                users.append(f"**{label}**" if paper in (name, name.split(" ")[0]) else label)
        psnr, ssim = (means.get(f"{metric} {key}", float("nan")) for metric in ("psnr", "ssim"))
        yield f"| {key} | {psnr:.4f} | {ssim:.4f} | {', '.join(users)} |"
    yield ""
    descriptions = [_description(found, scale) for found in (protocols_of(paper) if paper else ())]
    yield from (f"{paper}: {text}" for text in dict.fromkeys(descriptions))
    if any("float" in text for text in descriptions):
        yield (
            "`float` means before rounding to 8 bits, which files do not hold: expect some 0.02 dB of difference at "
            "35 dB, more above. `basicsr/test.py` prints both."
        )


def _description(found: dict[str, str], scale: int) -> str:
    parts = []
    for metric in ("psnr", "ssim"):
        numbers, channel, crop = found[metric].split(", ")
        channel = "RGB or gray" if channel == "any" else channel
        parts.append(f"{metric.upper()} {numbers}, {channel}, crop {scale if crop == 'scale' else crop}")
    return ", ".join(parts)


def _key_of(published: str, scale: int, keys: Sequence[str]) -> str:
    """Return the row nearest to "uint8, Y, scale"; super-resolution papers cut to a multiple of the scale."""
    _, channel, crop = published.split(", ")
    plain = f"{'RGB' if channel == 'any' else channel}, crop {scale if crop == 'scale' else crop}"
    cut = f"{plain}, cut to a multiple of {scale}"
    return cut if crop == "scale" and cut in keys else plain


def _gray_if_gray(*images: np.ndarray) -> Iterator[np.ndarray]:
    """Yield images as (H, W) if all have equal channels: gray is scored itself, not the luma of three channels."""
    gray = all((image == image[..., :1]).all() for image in images)
    return (image[..., 0] if gray else image for image in images)


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _bare(stem: str) -> str:
    """Return a stem without known suffixes, in lower case."""
    while (shorter := _SUFFIX.sub("", stem)) not in (stem, ""):
        stem = shorter
    return stem.lower()


def _published() -> dict:
    return yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))


if __name__ == "__main__":
    raise SystemExit(main())
