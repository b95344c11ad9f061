"""Draw docs/architecture.svg, the packages of basicsr and who imports whom, from the imports themselves.

A package stands above everything that it imports. An arrow that others already imply is left out: where models import
losses, and losses import archs, none is drawn from models to archs.
"""

import argparse
import ast
import html
import sys
from functools import cache
from pathlib import Path

from basicsr.text import tolerate_encoding

PACKAGE = Path(__file__).resolve().parents[1] / "basicsr"
TARGET = PACKAGE.parent / "docs" / "architecture.svg"
PROGRAMS = ("train", "test", "infer", "export")
HIDDEN = ("version", "utils", "upscaler", "__init__")  # a number, and the aliases of old import paths
WIDTH, BOX, GAP_X, ROW, MARGIN = 1000, 64, 24, 104, 24  # px
FONT = "font-family='Helvetica, Arial, sans-serif'"


def part_of(path: Path) -> str:
    """Return the package or file of basicsr that a source file belongs to, with one name for all programs."""
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "programs" if name in PROGRAMS else name


def imported_parts(path: Path) -> set[str]:
    """Return the parts of basicsr that a file imports, in functions and for type checkers, too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("basicsr."):
            name = str(node.module).split(".")[1]
            found.add("programs" if name in PROGRAMS else name)
    return found


def imports() -> dict[str, set[str]]:
    """Return which parts each part of basicsr imports, without aliases of old import paths."""
    graph: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        is_alias = path.read_text(encoding="utf-8").startswith('"""The old import path of')
        if part_of(path) not in HIDDEN and not is_alias:
            graph.setdefault(part_of(path), set()).update(imported_parts(path))
    return {part: {target for target in targets if target in graph and target != part}
            for part, targets in graph.items()}  # fmt: skip


def heights(graph: dict[str, set[str]]) -> dict[str, int]:
    """Return how many imports below each part the longest chain goes; 0 for a part that imports no other.

    Raises:
        RecursionError: when parts import each other in a circle.
    """

    @cache
    def height(part: str) -> int:
        return 1 + max((height(target) for target in graph[part]), default=-1)

    return {part: height(part) for part in graph}


def without_implied(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the graph without arrows that a longer way implies."""

    @cache
    def reachable(part: str) -> frozenset[str]:
        return frozenset(graph[part]).union(*(reachable(target) for target in graph[part]))

    return {
        part: {target for target in targets if not any(target in reachable(other) for other in targets)}
        for part, targets in graph.items()
    }


def purpose(part: str) -> str:
    """Return the first sentence of a part's docstring."""
    if part == "programs":
        return "The four commands: train, test, infer, export"
    path = PACKAGE / part / "__init__.py"
    text = ast.get_docstring(ast.parse((path if path.exists() else PACKAGE / f"{part}.py").read_text(encoding="utf-8")))
    return " ".join((text or "").split()).split(". ")[0].rstrip(".")


def wrapped(text: str, width: int) -> list[str]:
    """Return a text in at most three lines of about `width` characters."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines[:3]


def draw(graph: dict[str, set[str]]) -> str:
    """Return the picture as SVG."""
    row_of, arrows = heights(graph), without_implied(graph)
    rows = [sorted(part for part in graph if row_of[part] == row) for row in range(max(row_of.values()) + 1)]
    box_of: dict[str, tuple[float, float, float]] = {}  # left, top, width

    def mean_of_importers(part: str) -> float:
        lefts = [box_of[importer][0] for importer in box_of if part in arrows[importer]]
        return sum(lefts) / len(lefts) if lefts else 0.0

    for row, parts in enumerate(reversed(rows)):
        parts.sort(key=mean_of_importers)  # fewer arrows cross
        width = min(300.0, (WIDTH - 2 * MARGIN - GAP_X * (len(parts) - 1)) / len(parts))
        left = (WIDTH - len(parts) * width - GAP_X * (len(parts) - 1)) / 2
        for i, part in enumerate(parts):
            box_of[part] = left + i * (width + GAP_X), MARGIN + row * ROW, width
    height = 2 * MARGIN + (len(rows) - 1) * ROW + BOX
    shapes = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' height='{height}'>",
        "<defs><marker id='tip' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='8' markerHeight='8' orient='auto'>"
        "<path d='M0 0L8 4L0 8z' fill='#888'/></marker></defs>",
        f"<rect width='{WIDTH}' height='{height}' fill='white'/>",
    ]
    for part, targets in sorted(arrows.items()):
        for target in sorted(targets):
            (x1, y1, w1), (x2, y2, w2) = box_of[part], box_of[target]
            start, end = (x1 + w1 / 2, y1 + BOX), (x2 + w2 / 2, y2 - 2)
            bend = (end[1] - start[1]) / 2
            shapes.append(
                f"<path d='M{start[0]:.0f} {start[1]:.0f}C{start[0]:.0f} {start[1] + bend:.0f} {end[0]:.0f} "
                f"{end[1] - bend:.0f} {end[0]:.0f} {end[1]:.0f}' fill='none' stroke='#888' marker-end='url(#tip)'/>"
            )
    for part, (x, y, width) in sorted(box_of.items()):
        shapes.append(
            f"<rect x='{x:.0f}' y='{y:.0f}' width='{width:.0f}' height='{BOX}' rx='6' fill='#f3f6fb' stroke='#4a6fa5'/>"
        )
        shapes.append(
            f"<text x='{x + width / 2:.0f}' y='{y + 17:.0f}' {FONT} font-size='14' font-weight='bold' "
            f"text-anchor='middle'>{part}</text>"
        )
        for i, line in enumerate(wrapped(purpose(part), int(width / 5.6))):
            shapes.append(
                f"<text x='{x + width / 2:.0f}' y='{y + 32 + 12 * i:.0f}' {FONT} font-size='10.5' fill='#444' "
                f"text-anchor='middle'>{html.escape(line)}</text>"
            )
    return "\n".join([*shapes, "</svg>", ""])


def main(argv: list[str] | None = None) -> int:
    """Write the picture, or with --check compare it with what is there."""
    tolerate_encoding()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 when docs/architecture.svg is out of date")
    args = parser.parse_args(argv)
    picture = draw(imports())
    if args.check:
        return 0 if TARGET.exists() and TARGET.read_text(encoding="utf-8") == picture else 1
    TARGET.write_text(picture, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
