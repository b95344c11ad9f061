"""The choice of a mask at the end of a search: the best of the most probable ones, each tried by a short fine-tuning.

The probability of a mask says how fast its sub-network learns beside all others; a few thousand iterations of its own
say how far it comes. Each result is written as soon as it is there, so that an interrupted run loses one mask at most.
"""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from basicsr.config.schema import Options
from basicsr.engine.atomic import write_atomically
from basicsr.engine.run import read_on_rank0_and_broadcast
from basicsr.engine.training_state import write_on_rank0
from basicsr.pruning.compaction import kept_groups
from basicsr.pruning.samplers.base import Ranking
from basicsr.pruning.search import MaskSearch

logger = logging.getLogger("basicsr")
RECORD = "tried_masks.json"
Tried = dict[str, Any]
"""mask, kept, p, psnr_before, psnr_after of one mask; PSNR in dB."""


def pick_mask(
    opt: Options, search: MaskSearch, settings: Mapping[str, Any], recover: Callable[[list[int]], tuple[float, float]]
) -> list[Tried]:
    """Try the `prune.pick_topk` most probable masks, make the best of them the mode of `search`, and return them all.

    All processes call it. Masks that an interrupted run has tried with the same settings are not tried again.

    Args:
        opt: of the search.
        search: after its last step.
        settings: all that the results depend on besides the weights, as plain values.
        recover: returns the PSNR of the groups that a mask keeps, before and after fine-tuning.

    Raises:
        OSError: when the record cannot be written.
    """
    path, settings = Path(str(opt.path.log)) / RECORD, json.loads(json.dumps(settings))  # lists for tuples
    candidates = most_probable(search, search.prune.pick_topk)
    tried: list[Tried] = []
    done = read_on_rank0_and_broadcast(lambda: _read(path, settings))
    for place, (bits, p) in enumerate(candidates, 1):
        mask, kept = "".join(map(str, bits)), kept_groups(bits)
        before, after = done[mask] if mask in done else recover(kept)
        tried.append({"mask": mask, "kept": kept, "p": p, "psnr_before": before, "psnr_after": after})
        logger.info(
            "Mask %d of %d: groups %s, p %.4f, %.4f dB, after %d iterations %.4f dB%s",
            *(place, len(candidates), kept, p, before, search.prune.pick_iter, after),
            " (from the interrupted run)" if mask in done else "",
        )
        text = json.dumps({"settings": settings, "tried": tried}, indent=2)
        write_on_rank0(lambda text=text: write_atomically(path, f"{text}\n"))  # type: ignore[misc]
    search.mode = max(tried, key=lambda one: one["psnr_after"])["mask"]
    return tried


def most_probable(search: MaskSearch, number: int) -> Ranking:
    """Return the most probable masks within the budget; where none is, as a budget loss may allow, within none."""
    ranking = search.sampler.ranking(number)
    return [(m, p) for m, p in ranking if all(r.fits(r.total(m)) for r in search.resources)] or ranking


def _read(path: Path, settings: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Return mask -> PSNR before and after of an interrupted run; {} where it had other settings."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found = {one["mask"]: (one["psnr_before"], one["psnr_after"]) for one in record["tried"]}
        return found if record["settings"] == settings else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
