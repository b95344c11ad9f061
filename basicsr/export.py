"""Write a trained network as files for browsers, desktops and phones: `basicsr-export -m weights.pth -o folder`.

    --for web       (default) ONNX, one file for any size and one for tiles of 64x64 px, which WebGPU takes
    --for desktop   ONNX, one file for any size
    --for phone     ExecuTorch, one file for tiles of 64x64 px

--format, --tile, --dynamic and --no-dynamic choose by themselves. A file of weights names its own network; a published
one without that entry is known by its weights. Every file is run and compared with PyTorch before it is put in place,
beside a manifest.json that says how to use it. Needs `pip install basicsr[export]`, for phones `basicsr[executorch]`.
"""

import argparse
import hashlib
import importlib.util
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from basicsr.engine.atomic import atomic_path
from basicsr.errors import CheckpointError, OptionError
from basicsr.version import __version__

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from basicsr.runtimes.parity import Agreement

logger = logging.getLogger("basicsr")
MANIFEST = "manifest.json"
TARGETS = {  # formats, sides of tiles, whether there is a file for any size
    "web": (("onnx",), (64,), True),
    "desktop": (("onnx",), (), True),
    "phone": (("pte",), (64,), False),
}
USES = {("onnx", True): ["wasm", "desktop"], ("onnx", False): ["webgpu"], ("pte", False): ["android", "ios"]}
EXTRAS = {"onnx": ("export", ("onnx", "onnxscript", "onnxruntime")), "pte": ("executorch", ("executorch",))}
TILE = 128  # px, recommended for files of any size
WINDOWS = ((4, 18), (35, 35), (68, 16))  # px beyond the smallest side: inputs that files of any size are tried on
PHOTO_SIZE = (120, 120)  # px at most, of the input that has a ground truth
LOSS = {"float16": 0.02, "int8": 0.3}  # dB that a file of fewer bits may lose on the photograph
CALIBRATION_IMAGES = 32
CALIBRATION_SIDE = 96  # px


class Request(NamedTuple):
    """A checked command line."""

    model: Path
    output: Path
    formats: tuple[str, ...]
    tiles: tuple[int, ...]
    is_dynamic: bool
    dtypes: tuple[str, ...]
    opset: int
    calibrate: Path | None
    photo: Path | None
    overwrite: bool


class Network(NamedTuple):
    """What is exported."""

    net: "nn.Module"
    spec: dict[str, Any]
    scale: int
    channels: int
    rule: tuple[int, int]
    """smallest side of inputs of any size, and what their sides are multiples of"""


@dataclass
class Written:
    """A file that is made: its bytes, what the manifest says of it, and how it compares with PyTorch."""

    name: str
    data: bytes
    facts: dict[str, Any]
    parity: list["Agreement"] = field(default_factory=list)


def main(argv: list[str] | None = None) -> int:
    """The command `basicsr-export`; 0: all files are written, 1: one differs from PyTorch, 2: a mistake in the request.

    Unless it returns 0, no file is written.
    """
    args = _parser().parse_args(argv)
    # Only now, for this imports torch and --help should not wait for it.
    from basicsr.engine.run import run_command

    def body() -> None:
        export(check_request(args))

    return run_command("basicsr-export", body)


def check_request(args: argparse.Namespace) -> Request:
    """What a command line means.

    Raises:
        OptionError: naming an option that is wrong, or that needs something to be installed.
    """
    formats, tiles, is_dynamic = TARGETS[args.target]
    formats = tuple(dict.fromkeys(args.format or formats))
    tiles = tuple(dict.fromkeys(tiles if args.tile is None else args.tile))
    is_dynamic = is_dynamic if args.dynamic is None else args.dynamic
    dtypes = tuple(dict.fromkeys(args.dtype))
    if min(tiles, default=1) < 1:
        raise OptionError(f"--tile: must be at least 1 px, got {min(tiles)}")
    if "pte" in formats and not tiles:
        raise OptionError("--format pte: a program is for tiles of one size; give their sides to --tile, such as 64")
    if "onnx" in formats and not tiles and not is_dynamic:
        raise OptionError("--no-dynamic: leaves no file to write; give sides of tiles to --tile, such as 64")
    if args.int8 and args.calibrate is None:
        raise OptionError("--int8: needs photographs to find the ranges of values; name their folder by --calibrate")
    if args.int8 and "onnx" not in formats:
        raise OptionError("--int8: is for --format onnx")
    for kind in formats:
        extra, modules = EXTRAS[kind]
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if missing:
            raise OptionError(f"--format {kind}: needs {', '.join(missing)}; pip install 'basicsr[{extra}]'")
    return Request(
        Path(args.model), Path(args.output), formats, tiles, is_dynamic, dtypes, args.opset,
        Path(args.calibrate) if args.int8 else None, Path(args.photo) if args.photo else None, args.overwrite,
    )  # fmt: skip


def export(request: Request) -> dict[str, Any]:
    """Write the files and the manifest; returns the manifest.

    Raises:
        OptionError: when an option does not fit the network, or files exist.
        CheckpointError: when weights or photographs do not fit.
        ParityError: when a file does not give what PyTorch gives.
    """
    from basicsr.runtimes.parity import ParityError, table

    if not request.model.exists():
        raise CheckpointError(f"{request.model}: no such file; check the path")
    planned = [name for name, *_ in _plan(request)]
    existing = [name for name in [*planned, MANIFEST] if (request.output / name).exists()]
    if existing and not request.overwrite:
        raise OptionError(f"{request.output}: holds {', '.join(existing)}; name another folder, or give --overwrite")
    network = _network(request.model)
    photo, photo_name = _photo(request.photo, network)
    calibration = _calibration(request.calibrate, network) if request.calibrate else []
    written: list[Written] = []
    for name, kind, size, dtype in _plan(request):
        logger.info("Making %s", name)
        file = _make(name, kind, size, dtype, network, request, written, calibration)
        faults = _check(file, network, size, dtype, photo, photo_name)
        written.append(file)
        if faults:
            logger.error("%s", table({item.name: item.parity for item in written}))
            hint = ""
            if all(item.is_explained for item in file.parity):
                hint = "; it is tokens at ties that went another way, so try another --photo"
            raise ParityError(f"{name}: differs from PyTorch: {'; '.join(faults)}; no file was written{hint}")
    manifest = _manifest(network, request, written, photo_name)
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    _put(request.output, {**{file.name: file.data for file in written}, MANIFEST: text.encode()})
    logger.info("Parity with PyTorch:\n%s", table({file.name: file.parity for file in written}))
    for file in written:
        logger.info("%s, %d bytes, %d nodes", request.output / file.name, len(file.data), file.facts["nodes"])
    return manifest


def _plan(request: Request) -> Iterator[tuple[str, str, tuple[int, int] | None, str]]:
    """Name, format, (height, width) or None for any size, and type of numbers of every file, float32 first."""
    stem = request.model.stem
    sizes: list[tuple[int, int] | None] = [(side, side) for side in request.tiles]
    kinds = [*request.dtypes, *(["int8"] if request.calibrate else [])]
    for dtype in kinds:
        ending = {"float32": "", "float16": "_fp16", "int8": "_int8"}[dtype]
        for kind in request.formats:
            if kind == "pte" and dtype == "int8":
                continue
            for size in [*([None] if request.is_dynamic and kind == "onnx" else []), *sizes]:
                label = "dynamic" if size is None else f"{size[0]}x{size[1]}"
                yield f"{stem}_{label}{ending}.{kind}", kind, size, dtype


def _network(path: Path) -> Network:
    from basicsr.archs.published import read_network
    from basicsr.runtimes.trace import side_rule

    net, spec, _ = read_network(path)
    net = net.eval()
    first = next(p for p in net.parameters() if p.ndim == 4)
    scale = int(getattr(net, "upscale", spec.get("upscale", 1)))
    return Network(net, dict(spec), scale, first.shape[1], side_rule(net))


def _photo(path: Path | None, network: Network) -> tuple["np.ndarray", str]:
    """The picture that files are tried on, (H, W, C), and its name."""
    from basicsr.images.files import decode_gray, read_image
    from basicsr.runtimes.parity import drawn_picture

    read: Callable[[Path], np.ndarray] = read_image
    if network.channels == 1:
        read = lambda file: decode_gray(file.read_bytes(), file)  # noqa: E731
    if path is not None:
        return read(path), path.name
    package = importlib.util.find_spec("skimage")
    if package is not None and package.origin is not None:
        found = Path(package.origin).parent / "data" / "chelsea.png"
        if found.exists() and network.channels in (1, 3):
            return read(found), f"{found.name} of scikit-image"
    side = 640
    return drawn_picture(side, side, network.channels), "drawn picture"


def _calibration(folder: Path, network: Network) -> list["np.ndarray"]:
    """Inputs made of photographs as the network expects them, (1, C, h, w)."""
    from basicsr.images.files import list_images
    from basicsr.runtimes.parity import samples_of

    names = list_images(folder)
    step = max(1, len(names) // CALIBRATION_IMAGES)
    inputs = []
    for name in names[::step][:CALIBRATION_IMAGES]:
        photo, _ = _photo(folder / name, network)
        side = min(CALIBRATION_SIDE, *(length // network.scale for length in photo.shape[:2]))
        side -= side % network.rule[1]
        if side >= network.rule[0]:
            inputs.append(samples_of(photo, name, network.scale, [], (side, side), False)[-1].lq)
    if not inputs:
        raise CheckpointError(f"{folder}: has no image of {network.rule[0] * network.scale} px a side or more")
    return inputs


def _make(
    name: str, kind: str, size: tuple[int, int] | None, dtype: str, network: Network, request: Request,
    written: Sequence[Written], calibration: Sequence["np.ndarray"],
) -> Written:  # fmt: skip
    """A file, not yet compared."""
    import torch

    from basicsr.runtimes.trace import for_graph, traced

    facts: dict[str, Any] = {
        "file": name, "kind": kind, "dtype": dtype, "input": "lq", "output": "sr",
        "height": size[0] if size else None, "width": size[1] if size else None,
        "tile": size[0] if size else max(TILE, network.rule[0]), "for": USES[kind, size is None],
    }  # fmt: skip

    def program(with_groups: bool = False) -> torch.export.ExportedProgram:
        net = for_graph(network.net, torch.float16 if dtype == "float16" else torch.float32)
        return traced(net, network.channels, size, network.rule, with_groups)

    if kind == "pte":
        from basicsr.runtimes.executorch import executorch_program

        data, nodes = executorch_program(program())
        return Written(name, data, {**facts, "nodes": nodes})
    from basicsr.runtimes.onnx import check_model, onnx_model, quantised

    facts["opset"] = request.opset
    if dtype == "int8":
        import onnx

        whole = next((file for file in written if file.facts["dtype"] == "float32" and
                      (file.facts["height"], file.facts["width"]) == (size or (None, None))), None)  # fmt: skip
        model = onnx.load_from_string(whole.data) if whole else onnx_model(program(), request.opset)
        model = quantised(model, [_cut(image, size) for image in calibration])
    else:
        model = onnx_model(program(), request.opset)
        check_model(model, size, request.opset)
    data = model.SerializeToString()
    return Written(name, data, {**facts, "nodes": len(model.graph.node)})


def _cut(lq: "np.ndarray", size: tuple[int, int] | None) -> "np.ndarray":
    """The input, mirrored and cut to the size."""
    import numpy as np

    if size is None:
        return lq
    grown = [(0, max(0, side - length)) for side, length in zip(size, lq.shape[2:], strict=True)]
    return np.pad(lq, [(0, 0), (0, 0), *grown], mode="symmetric")[:, :, : size[0], : size[1]]


def _check(
    file: Written, network: Network, size: tuple[int, int] | None, dtype: str, photo: "np.ndarray", photo_name: str
) -> list[str]:
    """Compare a file with PyTorch; returns what is wrong with it."""
    from basicsr.runtimes.parity import compare, samples_of
    from basicsr.runtimes.trace import sides_beyond

    sides = [size] * 3 if size else [sides_beyond(extra, *network.rule) for extra in WINDOWS]
    rule = network.rule if size is None else (1, 1)
    samples = samples_of(photo, photo_name, network.scale, sides, size or PHOTO_SIZE, size is not None, rule)
    prepare = getattr(network.net, "prepared", None)
    reference = prepare() if callable(prepare) else network.net
    run: Any
    with_groups: Any = None
    if file.facts["kind"] == "pte":
        from basicsr.runtimes.executorch import ExecuTorchNet, executorch_program
        from basicsr.runtimes.trace import for_graph, traced

        run = ExecuTorchNet(file.data)
        tapped = traced(for_graph(network.net), network.channels, size, network.rule, with_groups=True)
        with_groups = ExecuTorchNet(executorch_program(tapped)[0]) if dtype == "float32" else None
    else:
        import onnx

        from basicsr.runtimes import onnx as onnx_file

        run = onnx_file.OnnxNet(onnx.load_from_string(file.data))
        if dtype == "float32":
            with_groups = onnx_file.OnnxNet(onnx_file.with_groups(onnx.load_from_string(file.data)))
    file.parity = [compare(reference, run, sample, with_groups) for sample in samples]
    if dtype == "float32":
        return [f"{item.input} {item.height}x{item.width}: {fault}" for item in file.parity for fault in item.faults()]
    lost = -(file.parity[-1].psnr_difference or 0.0)
    return [] if lost <= LOSS[dtype] else [f"{photo_name}: loses {lost:.3f} dB, may lose {LOSS[dtype]} dB"]


def _manifest(network: Network, request: Request, written: Sequence[Written], photo_name: str) -> dict[str, Any]:
    from basicsr.engine.checkpoint import load_file
    from basicsr.inference.upscaler import OVERLAP
    from basicsr.runtimes.parity import MEAN, PSNR, SAME_GROUPS, TIE, TIED_MEAN, WORST

    content = load_file(request.model)
    iterations = content.get("iter", (content.get("meta") or {}).get("iter"))
    kind = network.spec["type"]
    files = [
        {**file.facts, "bytes": len(file.data), "sha256": hashlib.sha256(file.data).hexdigest()} for file in written
    ]
    return {
        "format": 1,
        "name": f"{kind} x{network.scale}" if network.scale > 1 else kind,
        "network": network.spec,
        "scale": network.scale,
        "channels": network.channels,
        "min_side": network.rule[0],
        "multiple": network.rule[1],
        "overlap": OVERLAP,
        "range": [0, 1],
        "layout": "NCHW",
        "color": "RGB" if network.channels == 3 else "gray",
        "files": files,
        "source": {
            "file": request.model.name,
            "sha256": hashlib.sha256(request.model.read_bytes()).hexdigest(),
            "iterations": iterations,
            "created_by": f"basicsr {__version__}",
        },
        "parity": {
            "photo": photo_name,
            "limits": {"mean": MEAN, "max": WORST, "psnr_difference": PSNR, "max_same_groups": SAME_GROUPS,
                       "tie": TIE, "mean_with_ties": TIED_MEAN},
            "files": {file.name: [agreement.facts() for agreement in file.parity] for file in written},
        },
    }  # fmt: skip


def _put(folder: Path, contents: dict[str, bytes]) -> None:
    """Write all files under temporary names, then rename them, the manifest last: each is whole at any time."""
    try:
        with ExitStack() as stack:  # it leaves in the reverse order
            for name, data in reversed(contents.items()):
                stack.enter_context(atomic_path(folder / name, durable=True)).write_bytes(data)
    except OSError as error:
        raise OSError(f"{folder}: cannot be written ({error.strerror or error}); make room or give access") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="basicsr-export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model", required=True, metavar="FILE", help="weights, .pth or .safetensors")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="for the files and manifest.json")
    parser.add_argument("--for", dest="target", choices=list(TARGETS), default="web", help="default: web")
    parser.add_argument("--format", nargs="+", choices=["onnx", "pte"], help="onnx, pte (ExecuTorch), or both")
    parser.add_argument("--tile", nargs="*", type=int, metavar="N", help="sides in px of files for tiles of one size")
    parser.add_argument(
        "--dynamic", action=argparse.BooleanOptionalAction, default=None, help="an ONNX file for inputs of any size"
    )
    parser.add_argument("--opset", type=int, default=20, choices=range(18, 24), metavar="N", help="ONNX (default: 20)")
    parser.add_argument(
        "--dtype", nargs="+", choices=["float32", "float16"], default=["float32"],
        help="of weights; float16 halves those of convolutions and FFNs (default: float32)",
    )  # fmt: skip
    parser.add_argument("--int8", action="store_true", help="also files with 8-bit weights and activations")
    parser.add_argument("--calibrate", metavar="FOLDER", help="photographs by which --int8 finds ranges")
    parser.add_argument(
        "--photo", metavar="FILE", help="for the comparison with PyTorch (default: one of scikit-image's, or drawn)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
