"""Names of the images of a data set, and of their low-resolution partners, chosen before a run starts."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

from basicsr.data.storage import ImageStore, raise_for_faults

META_SIZES = re.compile(r"(\s+\(.*|[\s,]+\d+([\s,x]+\d+)*)$")  # after a name in a meta file


def chosen_names(store: ImageStore, meta_info_file: str | None = None) -> list[str]:
    """Return names of images in `store`: those listed in a meta file, in its order, else all.

    Args:
        store: the images.
        meta_info_file: text with one image a line; sizes after a name, as in `0001.png (1404,2040,3)` or
            `0001.png 1404 2040 3`, are ignored.

    Raises:
        FileNotFoundError: when the meta file or a listed image is missing, or there are no images.
    """
    names = store.names()
    if meta_info_file is not None:
        lines = Path(meta_info_file).read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
        known = set(names)
        names = [name_in_meta_line(line, known) for line in lines if line.strip()]
        missing = [f"{name}: listed in {meta_info_file}, but not there" for name in names if name not in known]
        raise_for_faults(store.root, missing, len(names), FileNotFoundError)
    if not names:
        raise FileNotFoundError(f"{meta_info_file or store.root}: no images; check the path")
    return names


def name_in_meta_line(line: str, known: Collection[str]) -> str:
    """Return the name in a line of a meta file, without the sizes that may follow it.

    Args:
        line: such as `0001.png`, `0001.png (480,480,3)`, `0001.png (480, 480, 3) 1` or `0001.png 480 480 3`.
        known: names of images; a name that ends like sizes is not cut if it is one of them.
    """
    line = line.strip()
    return line if line in known else META_SIZES.sub("", line)


def partner_names(gt_names: Sequence[str], lq_store: ImageStore, filename_tmpl: str) -> list[str]:
    """Return the names in `lq_store` of the low-resolution partners of `gt_names`.

    Args:
        gt_names: names of ground truth.
        lq_store: the low-resolution images.
        filename_tmpl: template of the partner's stem: "{}x4" pairs `a/b.png` with `a/bx4.png` or `a/bx4.jpg`; if
            both are there, with the one of its own suffix.

    Raises:
        ValueError: when the template holds no "{}", or two images have one partner, or one has two.
        FileNotFoundError: when a partner is missing.
    """
    if "{}" not in filename_tmpl:
        raise ValueError(f"filename_tmpl: must contain {{}} for the name of the GT image, got {filename_tmpl!r}")
    by_stem: dict[str, list[str]] = {}
    for name in lq_store.names():
        by_stem.setdefault(str(PurePosixPath(name).with_suffix("")), []).append(name)
    wanted = {name: str(with_stem(PurePosixPath(name), filename_tmpl)) for name in gt_names}
    missing = [
        f"{name}: its LQ image {stem}.* is missing; check filename_tmpl ({filename_tmpl!r})"
        for name, stem in wanted.items()
        if stem not in by_stem
    ]
    raise_for_faults(lq_store.root, missing, len(gt_names), FileNotFoundError)
    partners = {name: _of_same_suffix(name, by_stem[stem]) for name, stem in wanted.items()}
    owners: dict[str, str] = {}
    faults = []
    for name, found in partners.items():
        if len(found) > 1:
            faults.append(f"{name}: its LQ image may be {' or '.join(found)}; remove or rename one")
        elif owners.setdefault(found[0], name) != name:
            faults.append(f"{name}: has the same LQ image as {owners[found[0]]}, {found[0]}; rename one pair")
    raise_for_faults(lq_store.root, faults, len(gt_names))
    return [partners[name][0] for name in gt_names]


def _of_same_suffix(name: str, candidates: list[str]) -> list[str]:
    """Return the candidates with the suffix of `name` where there are several, all if none has it."""
    if len(candidates) == 1:
        return candidates
    suffix = PurePosixPath(name).suffix.lower()
    return [found for found in candidates if PurePosixPath(found).suffix.lower() == suffix] or candidates


def with_stem(name: PurePosixPath, template: str) -> PurePosixPath:
    """Return `name` with the stem that `template` makes of its own: "a/b.png" and "{}x4" give "a/bx4.png"."""
    return name.with_name(template.format(name.stem))
