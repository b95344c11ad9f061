"""The manifest of exported files, by which programs elsewhere use them, and writing all of them together."""

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from basicsr.engine.atomic import atomic_path
from basicsr.engine.checkpoint import load_file
from basicsr.inference.settings import OVERLAP
from basicsr.runtimes import parity
from basicsr.runtimes.build import BuiltFile, ExportNetwork
from basicsr.version import __version__

MANIFEST = "manifest.json"


def manifest(network: ExportNetwork, model: Path, files: Sequence[BuiltFile], photo_name: str) -> dict[str, Any]:
    """Return the content of the manifest.

    Args:
        network: that was exported.
        model: its weight file.
        files: all files made of it.
        photo_name: of the picture that they were compared on.
    """
    kind = network.spec["type"]
    return {
        "format": 1,
        "name": f"{kind} x{network.scale}" if network.scale > 1 else kind,
        "network": network.spec,
        "scale": network.scale,
        "channels": network.channels,
        "min_side": network.side_rule[0],
        "multiple": network.side_rule[1],
        "overlap": OVERLAP,
        "range": [0, 1],
        "layout": "NCHW",
        "color": "RGB" if network.channels == 3 else "gray",
        "files": [{**file.facts, "bytes": len(file.data), "sha256": _sha256(file.data)} for file in files],
        "source": _source(model),
        "parity": {
            "photo": photo_name,
            "limits": {
                "mean": parity.MAX_MEAN_ERROR,
                "max": parity.MAX_ERROR,
                "psnr_difference": parity.MAX_PSNR_DIFFERENCE,
                "max_same_groups": parity.MAX_ERROR_SAME_GROUPS,
                "tie": parity.MAX_TIE,
                "mean_with_ties": parity.MAX_MEAN_ERROR_WITH_TIES,
            },
            "files": {file.spec.name: [agreement.facts() for agreement in file.parity] for file in files},
        },
    }


def _source(model: Path) -> dict[str, Any]:
    content = load_file(model)
    return {
        "file": model.name,
        "sha256": _sha256(model.read_bytes()),
        "iterations": content.get("iter", (content.get("meta") or {}).get("iter")),
        "created_by": f"basicsr {__version__}",
    }


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_together(folder: Path, contents: dict[str, bytes]) -> None:
    """Write all files under temporary names, then rename them in their order: each is whole at any time.

    Raises:
        OSError: naming the folder, when it cannot be written.
    """
    try:
        with ExitStack() as stack:  # which leaves its contexts in reverse order
            for name, data in reversed(contents.items()):
                stack.enter_context(atomic_path(folder / name, durable=True)).write_bytes(data)
    except OSError as error:
        raise OSError(f"{folder}: cannot be written ({error.strerror or error}); make room or give access") from error
