"""Write docs/options.md, the reference of every YAML key, from the option types and the registered components."""

import argparse
import ast
import dataclasses
import inspect
import itertools
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from basicsr.config import degradation as degradation_options
from basicsr.config import pruning as prune_options
from basicsr.config import schema as options
from basicsr.config.describe import describe
from basicsr.config.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
    OPTIMIZER_REGISTRY,
    SCHEDULER_REGISTRY,
    Registry,
)
from basicsr.config.section import Section, signature_hints
from basicsr.config.stages import STAGES, Stages
from basicsr.config.training import TORCH_ARGUMENTS
from basicsr.text import tolerate_encoding

TARGET = Path(__file__).parents[1] / "docs" / "options.md"
SECTIONS: list[tuple[str, type[Section]]] = [
    ("", options.Options),
    ("datasets.*", options.DatasetOptions),
    ("path", options.PathOptions),
    ("train", options.TrainOptions),
    ("degradation", degradation_options.DegradationOptions),
    ("val", options.ValOptions),
    ("logger", options.LoggerOptions),
    ("prune", prune_options.PruneOptions),
    ("prune.inter_block", prune_options.InterBlockOptions),
    ("budget", prune_options.BudgetOptions),
    ("budget.dual", prune_options.DualOptions),
    ("kd", prune_options.DistillOptions),
    ("kd.sa", prune_options.SpatialAffinityOptions),
    ("kd.ca, kd.ia", prune_options.AffinityOptions),
    ("kd.feat", prune_options.FeatureOptions),
    ("kd.zoom", prune_options.ZoomOptions),
    ("compact", prune_options.CompactOptions),
    ("logger.wandb", options.WandbOptions),
    ("dist_params", options.DistOptions),
]
COMPONENTS: list[tuple[str, str, Registry, tuple[str, ...]]] = [
    ("Networks", "network_g", ARCH_REGISTRY, ()),
    ("Data sets", "datasets.*", DATASET_REGISTRY, options.DatasetOptions.SUPPLIED),
    ("Optimizers", "train.optim_g", OPTIMIZER_REGISTRY, ("params",)),
    ("Losses", "train.*_opt", LOSS_REGISTRY, ()),
    ("Schedules", "train.scheduler", SCHEDULER_REGISTRY, ()),
    ("Metrics", "val.metrics.*", METRIC_REGISTRY, ("img", "img2")),
]
HEAD = """# Options

All keys of a YAML file, with type, default and meaning. This page is generated from the source by
`python scripts/generate_options_doc.py`; a test checks that it is up to date.

- `key=value` pairs after `--force_yml` override the file: `--force_yml train:optim_g:lr=1e-4 val:val_freq=500`.
- `--check` prints the options with their defaults and exits.
- A wrong key, type or value ends the run with one message: file and line, key, problem, and the nearest valid name. An
  unknown key that resembles no valid one causes only a warning, because plug-ins may read keys of their own.
- `2e-4` is read as a number. A duplicate key is an error.
- Relative paths are relative to the current folder.
"""

STAGES_HEAD = """## Where each option counts

yes: honoured. no effect: a warning names the option. refused: an error when the options are checked. -: there is
nothing that it could mean. Saved pictures are those of `val.save_img`; inference is `basicsr-infer` and `Upscaler` with
the weights of the training.
"""


def main(argv: list[str] | None = None) -> int:
    """Write the page, or check with `--check` that it is up to date; return the exit code."""
    tolerate_encoding()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if docs/options.md is out of date"
    )
    args = parser.parse_args(argv)
    text = page()
    if args.check:
        return int(not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text)
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(text, encoding="utf-8")
    return 0


def page() -> str:
    """Return the whole page as Markdown."""
    parts = [HEAD]
    for path, section in SECTIONS:
        parts += [
            f"\n## {f'`{path}`' if path else 'Top level'}\n\n{inspect.getdoc(section)}\n\n",
            *_section_table(section),
        ]
    parts.append(f"\n## Models\n\n`model_type` is one of {_code_list(MODEL_REGISTRY.keys())}.\n")
    for title, path, registry, supplied in COMPONENTS:
        parts.append(f"\n## {title}\n\n`{path}: {{type: ..., ...}}`; the other keys are arguments of the type.\n")
        documented = [(name, target) for name, target in registry if not target.__module__.startswith("torch.")]
        if others := [name for name, _ in registry if name not in dict(documented)]:
            parts.append(
                f"\n{_code_list(others)} are PyTorch's classes, with the arguments documented for `torch.optim`, and "
                f"these ranges: {'; '.join(f'`{k}` {describe(hint)}' for k, hint in TORCH_ARGUMENTS.items())}.\n"
            )
        shared = {k: v for _, target in documented for k, v in _documented_arguments(target).items()}
        for name, target in documented:
            parts += [f"\n### {name}\n\n{_summary(target)}\n\n", *_component_table(target, supplied, shared)]
    parts += [f"\n{STAGES_HEAD}", *_stages_tables()]
    return "".join(parts)


def _stages_tables() -> Iterator[str]:
    """Yield, for each part of `stages.py`, a table of its options by stage."""
    for path, options_of_path in STAGES.items():
        yield f"\n| `{path}` | training | validation | test | saved pictures | inference | note |\n"
        yield f"|---|{'---|' * len(Stages._fields)}\n"
        for key, stages in options_of_path.items():
            yield f"| `{key}` | {' | '.join(_escape(cell or '-') for cell in stages)} |\n"


def _summary(target: Any) -> str:
    """Return the first paragraph of a docstring in one line, without a leading "Return"."""
    text = " ".join((inspect.getdoc(target) or "").split("\n\n")[0].split()).removeprefix("Return ")
    return text[:1].upper() + text[1:]


def _section_table(section: type[Section]) -> Iterator[str]:
    hints = typing.get_type_hints(section, include_extras=True)
    yield "| key | type | default | meaning |\n|---|---|---|---|\n"
    for field in dataclasses.fields(section):
        if not field.metadata["run"]:
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            default = field.default_factory() if callable(field.default_factory) else field.default
            default = "required" if required else _value(default)
            yield _row(field.name, describe(hints[field.name]), default, field.metadata["doc"])
    for pattern, hint in section.key_patterns.items():
        yield _row(pattern, describe(hint), "", "any other key of this form")


def _component_table(target: Any, supplied: tuple[str, ...], shared: dict[str, str]) -> Iterator[str]:
    """Yield the rows of a component; `shared` explains arguments documented by a sibling (SSIM by PSNR)."""
    hints, documented = signature_hints(target, supplied), {**shared, **_documented_arguments(target)}
    if not hints.types:
        return
    yield "| key | type | default | meaning |\n|---|---|---|---|\n"
    parameters = inspect.signature(target).parameters
    for name, hint in hints.types.items():
        default = parameters[name].default
        default_text = "required" if default is inspect.Parameter.empty else _value(default)
        yield _row(name, describe(hint), default_text, documented.get(name, ""))


def _documented_arguments(target: Any) -> dict[str, str]:
    """Return the `Args:` of Google-style docstrings, base classes included, and texts under a dataclass's fields."""
    found: dict[str, str] = {}
    for owner in reversed(target.__mro__) if inspect.isclass(target) else [target]:
        name = ""
        for line in (inspect.getdoc(owner) or "").partition("Args:\n")[2].splitlines():
            if not line.startswith("    "):
                break
            if line.startswith("     "):
                found[name] += f" {line.strip()}"
            else:
                name, _, meaning = line.strip().partition(": ")
                found[name] = meaning
        if dataclasses.is_dataclass(owner):
            found.update(_texts_under_fields(owner))
    return found


def _texts_under_fields(cls: Any) -> dict[str, str]:
    body = ast.parse(inspect.getsource(cls)).body[0].body  # type: ignore[attr-defined]
    return {
        node.target.id: " ".join(str(text.value.value).split())
        for node, text in itertools.pairwise(body)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def _value(value: Any) -> str:
    if isinstance(value, Section) or value is dataclasses.MISSING:
        return ""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{list(value) if isinstance(value, tuple) else value}"


def _row(key: str, kind: str, default: str, meaning: str) -> str:
    cells = (f"`{key}`", kind, f"`{default}`" if default and default != "required" else default, meaning)
    return f"| {' | '.join(_escape(cell) for cell in cells)} |\n"


def _escape(cell: str) -> str:
    """Return a cell with `|` escaped, and with `<` escaped outside code, where it would begin an HTML tag."""
    parts = cell.replace("|", r"\|").split("`")
    return "`".join(part if i % 2 else part.replace("<", r"\<") for i, part in enumerate(parts))


def _code_list(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    sys.exit(main())
