"""Test the networks of the zoo: `python scripts/zoo_test.py`, or `make zoo-test`.

Loads each member strictly and compares checksum, number of parameters and the scores of its test option files with
pretrained_models/zoo.json. A new or changed member needs NAME.pth, NAME.md with the two marker lines of the table of
scores, and options/test/zoo/test_NAME.yml; `--update NAME` measures it and writes zoo.json and the table.

Tolerances: 0.005 dB and 0.0001 of SSIM. The networks sort pixels by category, so a rounding error, which differs
between machines and numbers of threads, can move a pixel at a near-tie to another group, and so one picture's score.

Exit code: 0, all that could be measured agrees; 1, something differs, an image cannot be read, or with --require-data
or --update a data set is missing; 2, a file cannot be used.
"""

import argparse
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from basicsr.text import tolerate_encoding

ZOO = Path("pretrained_models")
PACKAGED = Path("basicsr/inference/weights")  # of the networks that are installed with the package
INDEX = ZOO / "zoo.json"
MEMBER = re.compile(r"CATANet-[A-Z-]+_x\d(_photo)?")  # other names are weights that users put there
TOLERANCES = {"psnr": 0.005, "ssim": 0.0001}
DECIMALS = {"psnr": 3, "ssim": 4}  # in tables; zoo.json has one more
DEFAULT_TOLERANCE, DEFAULT_DECIMALS = 0.005, 3  # of other metrics
TABLE = re.compile(r"(<!-- scores: [^\n]* -->\n).*?(<!-- end of scores -->)", re.DOTALL)
TABLE_MARKERS = "<!-- scores: written by scripts/zoo_test.py --update -->\n<!-- end of scores -->"
SetScores = dict[str, dict[str, float]]  # protocol, as "uint8, Y, crop 4" -> metric -> mean


class Line(NamedTuple):
    """A comparison of one score."""

    member: str
    dataset: str
    protocol: str
    metric: str
    expected: float
    measured: float

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance of the metric."""
        return abs(self.measured - self.expected) <= TOLERANCES.get(self.metric, DEFAULT_TOLERANCE)


class Measured(NamedTuple):
    """What a member is and scores."""

    facts: dict[str, Any]  # as in zoo.json
    scores: dict[str, SetScores]  # data set -> its scores
    missing: list[str]  # data sets that are not there, and why
    failed: list[str]  # images that have no scores, and why; so their data sets have none


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    tolerate_encoding()
    parser = argparse.ArgumentParser(
        prog="zoo_test", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="members, such as CATANet-XS_x4 (default: all)")
    parser.add_argument("--update", action="store_true", help="write what is measured to zoo.json and the cards")
    parser.add_argument("--require-data", action="store_true", help="exit with 1 where a data set is missing")
    parser.add_argument(
        "--root", type=Path, default=Path(__file__).parents[1], metavar="FOLDER", help="another checkout's folder"
    )
    args = parser.parse_args(argv)
    from basicsr.engine.run import USER_ERRORS  # imports torch, which --help should not wait for

    os.chdir(args.root)  # option files name weights and images from there
    try:
        if strangers := [name for name in args.names if not (MEMBER.fullmatch(name) and weights_of(name).is_file())]:
            raise FileNotFoundError(f"{strangers[0]}: is no member of the zoo; there are {', '.join(members())}")
        return run(args.names or members(), args.update, args.require_data)
    except (ValueError, *USER_ERRORS) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def run(names: list[str], update: bool, require_data: bool) -> int:
    """Test members, print a table and what is wrong; return the exit code."""
    zoo = read_index()
    lines: list[Line] = []
    problems = [f"{name}: is in {INDEX}, but {weights_of(name)} is missing" for name in zoo.keys() - set(members())]
    missing = []
    for name in names:
        measured = measure(name, zoo.get(name, {}))
        missing += [f"{name}: {text}" for text in measured.missing]
        problems += [f"{name}: {text}" for text in measured.failed]
        if update and not (measured.missing or measured.failed):
            zoo[name] = {**measured.facts, "scores": measured.scores}
            write_table(name, zoo[name])
            write_index(zoo)
        problems += differences(name, zoo.get(name), measured)
        lines += compare(name, zoo.get(name, {}).get("scores", {}), measured.scores)
    print("\n".join(table(lines)), end="\n\n")
    for text in missing:
        print(f"skipped, no data: {text}")
    for text in problems:
        print(f"wrong: {text}")
    differing = sum(not line.agrees for line in lines)
    print(f"{len(lines) - differing} of {len(lines)} scores of {len(names)} networks agree")
    return int(bool(problems or differing or (missing and (require_data or update))))


def members() -> list[str]:
    """Return the names of the networks of the zoo, sorted."""
    paths = [*ZOO.glob("*.pth"), *PACKAGED.glob("*.pth")]
    return sorted(path.stem for path in paths if MEMBER.fullmatch(path.stem))


def weights_of(name: str) -> Path:
    """Return the weight file of a member."""
    return (PACKAGED if name.endswith("_photo") else ZOO) / f"{name}.pth"


def read_index() -> dict[str, dict[str, Any]]:
    """Return the content of zoo.json, by the name of the member.

    Raises:
        ValueError: when it is no JSON, or names a member twice.
    """
    try:
        return json.loads(INDEX.read_text(encoding="utf-8"), object_pairs_hook=_once_each) if INDEX.exists() else {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{INDEX}: is no JSON file ({error})") from error


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the mapping of an object in JSON, of which `json` alone would keep the last of equal keys."""
    keys = [key for key, _ in pairs]
    if twice := [key for key in dict.fromkeys(keys) if keys.count(key) > 1]:
        raise ValueError(f"{INDEX}: has two entries {twice[0]!r}; remove one")
    return dict(pairs)


def write_index(zoo: Mapping[str, Any]) -> None:
    """Write zoo.json."""
    from basicsr.engine.atomic import write_atomically

    write_atomically(INDEX, json.dumps(dict(sorted(zoo.items())), indent=2) + "\n")


def facts_of(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of a member without a test: scale, task, parameters, checksum, option files.

    Args:
        entry: its present entry in zoo.json, which may name other option files than options/test/zoo/test_NAME.yml.

    Raises:
        CheckpointError: when its weights do not fit the network that its file describes.
    """
    from basicsr.archs.published import load_network
    from basicsr.engine.checkpoint import sha256_of

    net = load_network(weights_of(name))
    return {
        "scale": net.upscale,
        "task": "photo" if name.endswith("_photo") else "sr",
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "sha256": sha256_of(weights_of(name)),
        "tests": entry.get("tests", [f"options/test/zoo/test_{name}.yml"]),
    }


def measure(name: str, entry: Mapping[str, Any]) -> Measured:
    """Return facts and scores of a member.

    Raises:
        OptionError: when an option file cannot be used or tests other weights.
        CheckpointError: see `facts_of`.
    """
    from basicsr.config.load import load_options
    from basicsr.data.loaders import build_test_loader
    from basicsr.engine.run import join_processes
    from basicsr.errors import OptionError, first_line
    from basicsr.models import build_model

    found = Measured(facts_of(name, entry), {}, [], [])
    for file in found.facts["tests"]:
        opt = join_processes(load_options(file, is_train=False), "none")
        if Path(str(opt.path.pretrain_network_g)) != weights_of(name):
            raise (opt.path.where / "pretrain_network_g").error(f"must be {weights_of(name)}, which this file tests")
        model = build_model(opt)
        for key in opt.datasets_of("val", "test"):
            try:
                loader = build_test_loader(opt, key)
            except OptionError as error:
                found.missing.append(first_line(error))
            else:
                scores = model.validation(loader)
                if scores.failed:  # means of other images are no scores of the set
                    found.failed.extend(f"{scores.dataset}: {reason}" for reason in scores.failed.values())
                else:
                    found.scores[scores.dataset] = by_protocol(scores.mean(), scores.protocols)
    return found


def by_protocol(mean: Mapping[str, float], protocols: Mapping[str, str]) -> SetScores:
    """Return scores as zoo.json has them: protocol -> metric -> rounded mean.

    Args:
        mean: metric -> mean, where a metric's twin in the other protocol is called "x_float" or "x_uint8".
        protocols: metric -> its protocol.
    """
    found: SetScores = {}
    for key, value in mean.items():
        metric = key.removesuffix("_float").removesuffix("_uint8")
        decimals = DECIMALS.get(metric, DEFAULT_DECIMALS) + 1
        found.setdefault(protocols[key], {})[metric] = round(value, decimals)
    return found


def differences(name: str, entry: Mapping[str, Any] | None, measured: Measured) -> Iterator[str]:
    """Yield how facts and names of scores differ from the entry of a member in zoo.json."""
    if entry is None:
        yield f"{name}: has no entry in {INDEX}; add it with --update"
        return
    for key, value in measured.facts.items():
        if entry.get(key) != value:
            yield f"{name}: {key} is {value}, {INDEX} says {entry.get(key)}"
    tested, known = ({score for score, _ in _flat(scores)} for scores in (measured.scores, entry.get("scores", {})))
    for score in sorted(tested - known):
        yield f"{name}: {', '.join(score)} is measured, but not in {INDEX}; add it with --update"
    if not (measured.missing or measured.failed):
        for score in sorted(known - tested):
            yield f"{name}: {', '.join(score)} is in {INDEX}, but no option file measures it"


def compare(name: str, expected: Mapping[str, SetScores], measured: Mapping[str, SetScores]) -> list[Line]:
    """Return the comparisons of all scores that both have."""
    known = dict(_flat(expected))
    return [Line(name, *key, known[key], value) for key, value in _flat(measured) if key in known]


def _flat(scores: Mapping[str, SetScores]) -> Iterator[tuple[tuple[str, str, str], float]]:
    for dataset, protocols in scores.items():
        for protocol, metrics in protocols.items():
            for metric, value in metrics.items():
                yield (dataset, protocol, metric), value


def table(lines: list[Line]) -> list[str]:
    """Return the comparisons as lines of a Markdown table."""
    rows = ["| network | set | protocol | metric | zoo.json | here | verdict |", "|---|---|---|---|---:|---:|---|"]
    for line in lines:
        decimals = DECIMALS.get(line.metric, DEFAULT_DECIMALS) + 1
        limit = TOLERANCES.get(line.metric, DEFAULT_TOLERANCE)
        verdict = "agrees" if line.agrees else f"differs, tolerance {limit}"
        numbers = f"{line.expected:.{decimals}f} | {line.measured:.{decimals}f}"
        rows.append(f"| {line.member} | {line.dataset} | {line.protocol} | {line.metric} | {numbers} | {verdict} |")
    return rows


def score_table(scores: Mapping[str, SetScores]) -> str:
    """Return the table of scores of a card: a row for each data set, a column for each protocol and metric."""
    columns = list(dict.fromkeys((protocol, metric) for (_, protocol, metric), _ in _flat(scores)))
    rows = [["set", *(f"{metric.upper()} ({protocol})" for protocol, metric in columns)], ["---"] * (1 + len(columns))]
    for dataset, found in scores.items():
        cells = [
            f"{found[protocol][metric]:.{DECIMALS.get(metric, DEFAULT_DECIMALS)}f}"
            if metric in found.get(protocol, {})
            else ""
            for protocol, metric in columns
        ]
        rows.append([dataset, *cells])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def write_table(name: str, entry: Mapping[str, Any]) -> None:
    """Write the scores of a member between the markers of its card.

    Raises:
        ValueError: when the card has no markers.
        OSError: when there is no card.
    """
    card = ZOO / f"{name}.md"
    text = card.read_text(encoding="utf-8")
    if not TABLE.search(text):
        raise ValueError(f"{card}: has no place for the scores; add these two lines:\n{TABLE_MARKERS}")
    card.write_text(TABLE.sub(lambda found: found[1] + score_table(entry["scores"]) + found[2], text), encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
