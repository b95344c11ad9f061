"""Put the result of a training run into the zoo: `python scripts/zoo_add.py experiments/CATANet-XS_x4`.

Writes, with NAME for the name of the folder,
- NAME.pth: the moving average of the weights, where there is one, as `params`; and `network_g`
- NAME.yml: the run's option file, with its command line
- NAME.log: the logs of all its stretches, one after the other

Then write the card and run `python scripts/zoo_test.py --update NAME`; see pretrained_models/README.md.

Exit code: 0; 2, the folder holds no finished run, or its name is not one of the zoo.
"""

import argparse
import os
import shutil
from pathlib import Path

from zoo_test import MEMBER, ZOO, weights_of


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="zoo_add", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of the run, experiments/NAME")
    parser.add_argument(
        "--root", type=Path, default=Path(__file__).parents[1], metavar="FOLDER", help="another checkout's folder"
    )
    args = parser.parse_args(argv)
    from basicsr.engine.run import USER_ERRORS  # imports torch, which --help should not wait for

    folder = args.folder.resolve()
    os.chdir(args.root)
    try:
        add(folder)
    except (ValueError, *USER_ERRORS) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    return 0


def add(folder: Path) -> None:
    """Copy weights, options and logs of the run in `folder`, an absolute path.

    Raises:
        ValueError: when the folder's name is not one of the zoo.
        CheckpointError: when the weights cannot be read.
        OSError: when a file of the run is missing.
    """
    from basicsr.engine.checkpoint import load_file, save_atomically

    name = folder.name
    if not MEMBER.fullmatch(name):
        raise ValueError(f"{name}: is no name of the zoo; such a name is CATANet-XS_x4 or CATANet-XS_x4_photo")
    content = load_file(folder / "models/net_g_latest.pth")
    weights = content.get("params_ema", content["params"])
    logs = sorted(folder.glob("train_*.log"))
    weights_of(name).parent.mkdir(exist_ok=True)
    shutil.copyfile(folder / f"{name}.yml", ZOO / f"{name}.yml")
    (ZOO / f"{name}.log").write_text("".join(log.read_text(encoding="utf-8") for log in logs), encoding="utf-8")
    form = (content.get("meta") or {}).get("input")  # how it takes its images; nothing for plain ones
    meta = {"meta": {"input": form}} if form else {}
    save_atomically({"params": weights, "network_g": content["network_g"], **meta}, weights_of(name))
    print(f"{weights_of(name)}: written. Next: its card, {ZOO / name}.md; then scripts/zoo_test.py --update {name}")


if __name__ == "__main__":
    raise SystemExit(main())
