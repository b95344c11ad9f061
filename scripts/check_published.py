"""Compare the scores of a test run with those of its paper, under the paper's protocol.

    python basicsr/test.py -opt options/test/sr/103_ATD_light_SRx4_finetune.yml
    python scripts/check_published.py -opt options/test/sr/103_ATD_light_SRx4_finetune.yml

Reads results/<name>/scores.json and docs/published_results.yml, where the row is found by the name of the option file
(or the `name` in it), by the version of its network and by val.self_ensemble.

Tolerances: papers round PSNR to 0.01 dB and SSIM to 0.0001, which hides half of that; the same weights on other
hardware differ by some 0.002 dB and 0.0002, as pixels change their group at near-ties. 0.01 dB and 0.0005 leave room
for both and for little else: 8 bits in place of floats cost 0.02 dB at 35 dB.

Exit code: 0, all that can be compared agrees; 1, something differs; 2, nothing can be compared.
"""

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from basicsr.errors import OptionError
from basicsr.text import tolerate_encoding

DOCS = Path(__file__).parents[1] / "docs"
SOURCE, PAGE = DOCS / "published_results.yml", DOCS / "published_results.md"
METRICS = {"psnr": ("PSNR", 2), "ssim": ("SSIM", 4)}  # name -> its name in the table, decimals that papers print
EPSILON = 1e-9  # so that a difference of just the tolerance agrees
# Other names of the sets, as `same_set` spells them.
ALIASES = {"bsd100": "b100", "bsds100": "b100", "kodak": "kodak24", "mcm": "mcmaster", "mcmaster18": "mcmaster"}
PAGE_HEAD = """# Published results

Results as printed in the papers, listed by the option file that tests the network. None of these numbers was measured
here. This page is generated from `published_results.yml` by `python scripts/check_published.py --write-page`; a test
checks that it is up to date. To compare a test run with the published numbers:

```bash
python basicsr/test.py -opt options/test/sr/103_ATD_light_SRx4_finetune.yml
python scripts/check_published.py -opt options/test/sr/103_ATD_light_SRx4_finetune.yml
```

Scores agree when they differ by at most 0.01 dB and 0.0005: papers round to 0.01 dB and 0.0001, and scores of the same
weights differ by about 0.002 dB and 0.0002 between machines. Both versions of ATD have the same file names; the network
in the option file decides which row is compared.
"""

Values = dict[str, float]  # psnr, and ssim where the paper has it


class Row(NamedTuple):
    """The scores that a paper prints for one network."""

    name: str
    network: str
    self_ensemble: bool
    protocol: str
    data: dict[str, dict[str, Any]]  # set -> options that it must have
    values: dict[str, Values]  # set -> scores


class Line(NamedTuple):
    """A comparison of one number."""

    dataset: str
    metric: str
    published: float
    ours: float
    agrees: bool


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    tolerate_encoding()
    parser = argparse.ArgumentParser(
        prog="check_published", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-opt", metavar="X.yml", help="options of the test run")
    parser.add_argument("--scores", type=Path, metavar="JSON", help="default: results/<name>/scores.json")
    parser.add_argument("--tolerance", type=float, default=0.01, metavar="DB", help="of PSNR (default: 0.01)")
    parser.add_argument("--tolerance-ssim", type=float, default=0.0005, metavar="X", help="of SSIM (default: 0.0005)")
    parser.add_argument("--run", action="store_true", help="run the test first")
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="a:b=value", help="override options of the file")
    parser.add_argument("--write-page", action="store_true", help=f"write {PAGE.name} from {SOURCE.name}, and end")
    args = parser.parse_args(argv)
    if args.write_page:
        PAGE.write_text(page(), encoding="utf-8")
        print(f"{PAGE} written")
        return 0
    if args.opt is None:
        parser.error("-opt is missing")
    if args.run and args.scores:
        parser.error("--run makes new scores, so leave out --scores")
    if not (args.tolerance >= 0 and args.tolerance_ssim >= 0):
        parser.error("tolerances must be numbers of at least 0")
    # These import torch, which --help should not wait for.
    from basicsr.config.load import load_options, resolve
    from basicsr.engine.run import USER_ERRORS
    from basicsr.test import main as run_test

    try:
        options = resolve(load_options(args.opt, args.force_yml, is_train=False))
        row = published_row(options)
        if args.run and run_test(["-opt", args.opt, *(["--force_yml", *args.force_yml] if args.force_yml else [])]):
            parser.exit(2, f"{parser.prog}: the test run failed, so there is nothing to compare\n")
        scores = read_scores(args.scores or Path(str(options.path.log)) / "scores.json", args.opt)
        tolerances = {"psnr": args.tolerance, "ssim": args.tolerance_ssim}
        lines, notes = compare(row, scores, options, tolerances)
    except (ValueError, *USER_ERRORS) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(f"{row.name}, {row.network}{', self-ensemble' if row.self_ensemble else ''}\n")
    if lines:
        print("\n".join(table(lines, tolerances)), end="\n\n")
    for note in notes:
        print(note)
    if not lines:
        parser.exit(2, f"{parser.prog}: nothing can be compared\n")
    differing = sum(not line.agrees for line in lines)
    sets = len({line.dataset for line in lines})
    print(f"{len(lines) - differing} of {len(lines)} numbers agree, on {sets} of {len(row.values)} published sets")
    return 1 if differing else 0


def rows() -> list[Row]:
    """Return all published rows."""
    found = []
    for entry in _source()["tables"]:
        sets = entry["sets"]
        for row in entry["rows"]:
            values = {name: _values(text) for name, text in zip(sets, row["values"], strict=True) if text is not None}
            data = {name: {**row.get("data", {}), **entry.get("set_data", {}).get(name, {})} for name in values}
            found.append(
                Row(row["name"], entry["network"], row.get("self_ensemble", False), entry["protocol"], data, values)
            )
    return found


def published_row(options: Any) -> Row:
    """Return the published row of the network that a test run scores.

    Raises:
        OptionError: when there is none, naming those that exist.
    """
    from basicsr.archs import build_network
    from basicsr.config.construction import build_for_shapes

    everything = rows()
    names = (Path(options.source).stem, options.name)
    named = next((found for name in names if (found := [row for row in everything if row.name == name])), [])
    if not named:
        raise OptionError(f"{options.source}: nothing is published under its name; {PAGE.name} lists the names")
    net = build_for_shapes(lambda: build_network(options.network_g))
    network = getattr(net, "relative", options.network_g["type"].split("-")[0])
    of_network = [row for row in named if row.network == network]
    if not of_network:
        published = " and ".join(dict.fromkeys(row.network for row in named))
        raise OptionError(f"{options.source}: {named[0].name} is published of {published}, its network is {network}")
    ensemble = options.val.self_ensemble
    for row in of_network:
        if row.self_ensemble == ensemble:
            return row
    raise OptionError(
        f"{options.source}: {named[0].name} is not published {'with' if ensemble else 'without'} self-ensemble; "
        f"set val.self_ensemble: {str(not ensemble).lower()}"
    )


def read_scores(path: Path, option_file: str) -> dict[str, dict[str, Any]]:
    """Return the scores that test.py wrote, by the name of the data set.

    Raises:
        FileNotFoundError: when there are none yet.
        ValueError: when the file holds something else.
    """
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        hint = f"run `python basicsr/test.py -opt {option_file}` first, or add --run"
        raise FileNotFoundError(f"{path}: no such file; {hint}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: is no JSON file ({error}); run the test again") from error
    parts = ("protocols", "mean", "per_image")
    is_complete = isinstance(scores, dict) and all(
        isinstance(found, dict) and all(isinstance(found.get(part), dict) for part in parts)
        for found in scores.values()
    )
    if not is_complete:
        raise ValueError(f"{path}: does not look like the scores of a test run; name another file")
    return scores


def compare(
    row: Row, scores: Mapping[str, Mapping[str, Any]], options: Any, tolerances: Mapping[str, float]
) -> tuple[list[Line], list[str]]:
    """Return the numbers that can be compared, and notes on why others cannot."""
    source = _source()
    protocol = source["protocols"][row.protocol]
    datasets = {entry.name: entry for entry in options.datasets.values()}
    ours: dict[str, str] = {}  # published name of a set -> name in the scores
    notes = []
    for name in scores:
        published = next((known for known in row.values if same_set(known) == same_set(name)), None)
        if published is None:
            notes.append(f"{name}: has scores, but none are published of {row.name}")
        elif published in ours:
            notes.append(f"{name}: is {published} once more; {ours[published]} is compared")
        else:
            ours[published] = name
    lines = []
    for published, values in row.values.items():
        if published not in ours:
            notes.append(f"{published}: is published, but was not tested")
            continue
        name = ours[published]
        found = scores[name]
        count, expected = len(found["per_image"]), source["images"][published]
        if count != expected:
            notes.append(f"{name}: has {count} images, the published set {expected}; it is not compared")
            continue
        wrong = [
            f"{key} is {datasets[name].get(key)}, published {value}"
            for key, value in row.data[published].items()
            if name in datasets and datasets[name].get(key) != value
        ]
        if wrong:
            notes.append(f"{name}: {', '.join(wrong)}; it is not compared")
            continue
        for metric, value in values.items():
            wanted = protocol[metric].replace("scale", str(options.scale))
            score = _score(found, metric, wanted)
            if score is None:
                existing = ", ".join(f"{key} ({text})" for key, text in found["protocols"].items())
                notes.append(
                    f"{name}: has no {METRICS[metric][0]} of protocol {_format_protocol(wanted)}; it has {existing}"
                )
            else:
                agrees = abs(score - value) <= tolerances[metric] + EPSILON
                lines.append(Line(published, metric, value, score, agrees))
    return lines, notes


def same_set(name: str) -> str:
    """Return one spelling for all usual names of a data set: B100, BSD100 and BSD100_x4, or CBSD68 and CBSD68HQ."""
    name = re.sub(r"[^a-z0-9]", "", re.sub(r"[_-]x\d$", "", name.lower())).removesuffix("hq")
    return ALIASES.get(name, name)


def table(lines: list[Line], tolerances: Mapping[str, float]) -> Iterator[str]:
    """Yield the comparison in Markdown."""
    yield "| set | metric | published | ours | difference | |"
    yield "|---|---|---:|---:|---:|---|"
    for line in lines:
        label, decimals = METRICS[line.metric]
        difference = line.ours - line.published
        verdict = "agrees" if line.agrees else f"differs, tolerance {tolerances[line.metric]:g}"
        more = decimals + 2
        yield (
            f"| {line.dataset} | {label} | {line.published:.{decimals}f} | {line.ours:.{more}f} | "
            f"{difference:+.{more}f} | {verdict} |"
        )


def page() -> str:
    """Return the documentation of all published results."""
    source = _source()
    parts = [PAGE_HEAD]
    for entry in source["tables"]:
        protocol = source["protocols"][entry["protocol"]]
        lines = [f"| option file | {' | '.join(entry['sets'])} |", f"|---|{'---|' * len(entry['sets'])}"]
        for row in entry["rows"]:
            label = f"`{row['name']}`" + (", self-ensemble" if row.get("self_ensemble") else "")
            cells = ["" if text is None else _printed(_values(text)) for text in row["values"]]
            lines.append(f"| {label} | {' | '.join(cells)} |")
        text = [f"## {entry['title']}", f"Source: {entry['source']}. {protocol['text']}", "\n".join(lines)]
        parts += [*text, entry["note"]] if "note" in entry else text
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _source() -> dict[str, Any]:
    return yaml.safe_load(SOURCE.read_text(encoding="utf-8"))


def _values(text: str | float) -> Values:
    """Return the values of `38.61/.9629`, or of PSNR alone."""
    return dict(zip(METRICS, map(float, str(text).split("/")), strict=False))


def _printed(values: Values) -> str:
    return "/".join(f"{value:.{METRICS[metric][1]}f}" for metric, value in values.items())


def _score(found: Mapping[str, Any], metric: str, wanted: str) -> float | None:
    """Return the mean of the metric with the wanted protocol; its name begins with `psnr` or `ssim`."""
    numbers, channel, crop = wanted.split(", ")
    for name, protocol in found["protocols"].items():
        parts = protocol.split(", ")
        fits = (
            parts[0] == numbers and (channel in ("any", parts[1]) or parts[1] == "gray") and parts[2] == f"crop {crop}"
        )
        if name.lower().startswith(metric) and fits:
            return float(found["mean"][name])
    return None


def _format_protocol(wanted: str) -> str:
    numbers, channel, crop = wanted.split(", ")
    return ", ".join([numbers, *([] if channel == "any" else [channel]), f"crop {crop}"])


if __name__ == "__main__":
    raise SystemExit(main())
