"""Draw the plots and write the page of a search, finished or under way: `python scripts/prune_report.py <folder>`.

Reads mask_log.csv and prune_report.json in the run's folder, and rank_masks.csv and results.csv if they exist. Writes
plots/*.png with their data as CSV, and prune_report.html, which contains everything and needs no other file.
"""

import argparse
from pathlib import Path

from basicsr.engine.atomic import check_folder
from basicsr.pruning.report.page import build_report
from basicsr.text import tolerate_encoding


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Exit code 0: the page is written; 2: error in arguments or files.
    """
    tolerate_encoding()
    parser = argparse.ArgumentParser(
        prog="prune_report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of the search run, experiments/<name>")
    parser.add_argument(
        "--runs", type=Path, nargs="+", default=[], metavar="FOLDER", help="further searches to compare"
    )
    parser.add_argument(
        "--finetune", type=Path, nargs="+", default=[], metavar="FOLDER", help="fine-tuning runs whose losses to draw"
    )
    parser.add_argument(
        "--results", type=Path, metavar="CSV", help="table of results (default: results.csv in the folder)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="where to write (default: the run's folder)"
    )
    args = parser.parse_args(argv)
    try:
        check_folder(args.output or args.folder, "-o" if args.output else "folder")
        page = build_report(args.folder, args.runs, args.finetune, args.results, args.output)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(f"{page} written, with plots in {page.parent / 'plots'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
