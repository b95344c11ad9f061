"""The files of a test run: tables of all data sets that are finished, and the rows of the one that is not."""

import csv
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from basicsr.engine.atomic import write_atomically
from basicsr.metrics.evaluate import Scores
from basicsr.text import ERRORS

logger = logging.getLogger("basicsr")


def write_scores(folder: Path, name: str, results: Sequence[Scores]) -> None:
    """Write the scores of data sets as Markdown and JSON, and each set's as CSV; every file is whole at any time.

    Args:
        name: of the run, the heading of the Markdown file.

    Raises:
        OSError: when one cannot be written.
    """
    for scores in results:
        scores.to_csv(folder / f"scores_{scores.dataset}.csv")
    tables = "\n\n".join(scores.table() for scores in results)
    write_atomically(folder / "scores.md", f"# {name}\n\n{tables}\n")
    content = {scores.dataset: scores.to_plain() for scores in results}
    write_atomically(folder / "scores.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")


class UnfinishedRows:
    """A CSV file that gets the scores of each image as they come, so that a run that is killed keeps them.

    Where it cannot be written, a warning says so once.

    Args:
        folder: of the results.
        dataset: name of the data set.
        rank: of this process, which has a file of its own; 0: the only or first one.
    """

    def __init__(self, folder: Path, dataset: str, rank: int = 0):
        of_rank = f"_rank{rank}" if rank else ""
        self.path = folder / f"scores_{dataset}_unfinished{of_rank}.csv"
        self._works = True

    def add(self, name: str, scores: Mapping[str, float]) -> None:
        """Append the row of an image, and first the head of the table."""
        if not self._works:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", newline="", encoding="utf-8", errors=ERRORS) as file:
                writer = csv.writer(file)
                if file.tell() == 0:
                    writer.writerow(["image", *scores])
                writer.writerow([name, *scores.values()])
        except OSError as error:
            self._works = False
            logger.warning("%s: cannot be written (%s); scores are kept in memory alone", self.path, error.strerror)

    def remove(self) -> None:
        """Delete the file, once its rows are in the table of the data set."""
        self.path.unlink(missing_ok=True)
