"""The summary of the measurements as Markdown."""

from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np

from basicsr.config.schema import Options
from basicsr.metrics import describe
from basicsr.pruning.report.mask_plots import rank_correlation
from basicsr.pruning.report.read import kept_text
from mask_ranking.table import RECOVERED, ZERO_SHOT, P, Table

SIMULATIONS = 2000  # rankings of noise
NAMES = {ZERO_SHOT: "zero-shot PSNR", RECOVERED: "recovered PSNR", P: "p"}


def summary(
    opt: Options, table: Table, learned: str | None, uniform: str | None, seeds: Mapping[str, Mapping[str, float]]
) -> str:
    """Return the summary as Markdown. The recovered PSNR decides the order, if it was measured.

    Args:
        opt: of the search.
        table: the measurements.
        learned: the mask that the search chose.
        uniform: the evenly spread mask.
        seeds: name of a file -> recovered PSNR of each mask with another seed.
    """
    decisive = RECOVERED if table.values(RECOVERED) else ZERO_SHOT
    ranking = table.ranking(decisive)
    roles = {"best": ranking[0], "median": ranking[len(ranking) // 2], "worst": ranking[-1]}
    if decisive == RECOVERED:
        roles["best zero-shot"] = table.ranking(ZERO_SHOT)[0]
    roles |= {name: mask for name, mask in (("learned", learned), ("uniform", uniform)) if mask is not None}
    lines = _standings(table, roles, decisive)
    remarks = [
        _conditions(opt, table),
        f"Mean {NAMES[decisive]} of {len(ranking)} masks: {table.mean(decisive):.4f} dB, "
        f"{table.values(decisive)[ranking[0]] - table.mean(decisive):.4f} below the best.",
        *_correlations(table),
    ]
    if learned is not None:
        text = _regret(table, decisive, learned)
        remarks.append(f"Regret of the learned mask in {NAMES[decisive]}: {text + ' dB' if text else 'not measured'}.")
    if seeds:
        remarks += _noise({table.path.name: table.values(RECOVERED), **seeds}, learned)
    return "\n".join([f"# Masks of {opt.name}", "", *lines, "", *(f"- {remark}" for remark in remarks), ""])


def _noise(seeds: Mapping[str, Mapping[str, float]], learned: str | None) -> Iterator[str]:
    """Yield sentences on how much of the ranking by recovered PSNR is left with another seed.

    Args:
        seeds: name of a file -> recovered PSNR of each mask, two files at least.
        learned: the mask that the search chose.
    """
    masks = [mask for mask in next(iter(seeds.values())) if all(mask in values for values in seeds.values())]
    if len(masks) < 2:
        yield f"Seeds: the files have {len(masks)} recovered masks in common, too few to compare."
        return
    columns = {name: [values[mask] for mask in masks] for name, values in seeds.items()}
    for (first, x), (second, y) in combinations(columns.items(), 2):
        yield (
            f"Spearman correlation of recovered PSNR in {first} and {second}, {len(masks)} masks: "
            f"{rank_correlation(x, y):.3f}."
        )
    psnr = np.array([*columns.values()])
    psnr -= psnr.mean(axis=1, keepdims=True)  # what a seed changes for all masks alike does not change the ranking
    spread, noise = _spread_and_noise(psnr)
    yield (
        f"Standard deviation of the masks' mean recovered PSNR: {spread:.4f} dB; of one mask over {len(seeds)} seeds: "
        f"{noise:.4f} dB. Of rankings of noise alone, {100 * _share_of_noise(psnr):.1f} % differ as much."
    )
    means = dict(zip(masks, psnr.mean(axis=0).tolist(), strict=True))
    if learned in means:
        place = sum(value > means[learned] for value in means.values()) + 1
        regret = max(means.values()) - means[learned]
        yield f"The learned mask is {place} of {len(masks)} in the mean over the seeds, {regret:.4f} dB below the best."


def _spread_and_noise(psnr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the deviation of the masks' means, and that of one mask over the seeds, both as standard deviations.

    Args:
        psnr: (..., seeds, masks), each row with mean 0.
    """
    return psnr.mean(axis=-2).std(axis=-1, ddof=1), np.sqrt(psnr.var(axis=-2, ddof=1).mean(axis=-1))


def _share_of_noise(psnr: np.ndarray) -> float:
    """Return the share of simulated rankings of equally good masks whose means spread as far, relative to the noise."""
    drawn = np.random.default_rng(0).normal(size=(SIMULATIONS, *psnr.shape))
    drawn -= drawn.mean(axis=-1, keepdims=True)
    (spread, noise), (spread_0, noise_0) = _spread_and_noise(psnr), _spread_and_noise(drawn)
    return float((spread_0 * noise >= spread * noise_0).mean())


def _conditions(opt: Options, table: Table) -> str:
    """Return a sentence about teacher, data sets and metric."""
    sets = ", ".join(options.name or key for key, options in opt.datasets_of("val").items())
    protocol = describe((opt.val.metrics or {})["psnr"])
    number = len(table.values(RECOVERED))
    recovered = f", {number} of them recovered by {table.iterations} iterations" if number else ""
    return f"{len(table.rows)} masks of {opt.path.pretrain_network_t}{recovered}; PSNR in dB on {sets} ({protocol})."


def _standings(table: Table, roles: Mapping[str, str], decisive: str) -> list[str]:
    """Return the lines of a Markdown table: values and ranks of some masks, and their distance from the best."""
    columns = [column for column in NAMES if table.values(column)]
    head = ["", "mask", "groups", *(text for c in columns for text in (NAMES[c], "rank")), "regret (dB)"]
    lines = [head, ["---"] * 3 + ["---:"] * (len(head) - 3)]
    for name, mask in roles.items():
        cells = [cell for column in columns for cell in _standing(table.values(column), mask)]
        lines.append([name, mask, kept_text(mask), *cells, _regret(table, decisive, mask) or "–"])
    return [f"| {' | '.join(line)} |" for line in lines]


def _regret(table: Table, column: str, mask: str) -> str:
    """Return the distance of a mask from the best as text; "" where it is not measured."""
    values = table.values(column)
    return f"{max(values.values()) - values[mask]:.4f}" if mask in values else ""


def _standing(values: Mapping[str, float], mask: str) -> tuple[str, str]:
    """Return the value of a mask and its rank as text; equal values share the best rank."""
    if mask not in values:
        return "–", "–"
    better = sum(value > values[mask] for value in values.values())
    return f"{values[mask]:.4f}", f"{better + 1} of {len(values)}"


def _correlations(table: Table) -> Iterator[str]:
    """Yield sentences on how well one column predicts the order of another: Spearman's rank correlation."""
    for first, second in ((ZERO_SHOT, RECOVERED), (P, RECOVERED), (P, ZERO_SHOT)):
        x, y = table.values(first), table.values(second)
        both = [mask for mask in x if mask in y]
        if len(both) > 1:
            rho = rank_correlation([x[mask] for mask in both], [y[mask] for mask in both])
            yield f"Spearman correlation of {NAMES[first]} and {NAMES[second]}, {len(both)} masks: {rho:.3f}."
