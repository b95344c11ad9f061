"""The summary of the measurements as Markdown."""

from collections.abc import Iterator, Mapping

from basicsr.config.schema import Options
from basicsr.metrics import describe
from basicsr.pruning.report.mask_plots import rank_correlation
from basicsr.pruning.report.read import kept_text
from mask_ranking.table import RECOVERED, ZERO_SHOT, P, Table

NAMES = {ZERO_SHOT: "zero-shot PSNR", RECOVERED: "recovered PSNR", P: "p"}


def summary(opt: Options, table: Table, learned: str | None, uniform: str | None) -> str:
    """Return the summary as Markdown. The recovered PSNR decides the order, if it was measured.

    Args:
        opt: of the search.
        table: the measurements.
        learned: the mask that the search chose.
        uniform: the evenly spread mask.
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
    return "\n".join([f"# Masks of {opt.name}", "", *lines, "", *(f"- {remark}" for remark in remarks), ""])


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
