"""A file of a network for another runtime: made, run, and compared with PyTorch."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from basicsr.archs.image_network import ImageNetwork
from basicsr.archs.published import input_channels, read_network
from basicsr.errors import CheckpointError
from basicsr.images.files import decode_gray, list_images, read_image
from basicsr.runtimes.parity import Agreement, Run, compare, drawn_picture, samples_of
from basicsr.runtimes.request import FileSpec
from basicsr.runtimes.trace import for_graph, side_rule, sides_beyond, traced

USES = {("onnx", True): ["wasm", "desktop"], ("onnx", False): ["webgpu"], ("pte", False): ["android", "ios"]}
RECOMMENDED_TILE = 128  # px, for files of any size
WINDOWS = ((4, 18), (35, 35), (68, 16))  # px beyond the smallest side: inputs that files of any size are tried on
PHOTO_SIZE = (120, 120)  # px at most, of the input that has a ground truth
MAX_PSNR_LOSS = {"float16": 0.02, "int8": 0.3}  # dB, of a file of fewer bits on the photograph
CALIBRATION_IMAGES = 32
CALIBRATION_SIDE = 96  # px
DRAWN_SIDE = 640  # px


class ExportNetwork(NamedTuple):
    """A network to export."""

    net: nn.Module
    spec: dict[str, Any]
    scale: int
    channels: int
    side_rule: tuple[int, int]
    """smallest side of inputs of any size, and the number that their sides are multiples of"""


class Photo(NamedTuple):
    """A picture that files are tried on."""

    name: str
    pixels: np.ndarray
    """(H, W, C)"""


@dataclass
class BuiltFile:
    """A file in memory, its entry in the manifest, and how it compares with PyTorch."""

    spec: FileSpec
    data: bytes
    facts: dict[str, Any]
    parity: list[Agreement] = field(default_factory=list)


def read_export_network(path: Path) -> ExportNetwork:
    """Return the network of a weight file, in evaluation.

    Raises:
        CheckpointError: as `read_network`.
    """
    net, spec, _ = read_network(path)
    if isinstance(net, ImageNetwork):
        raise CheckpointError(
            f"{path}: was trained on images with {net.form}, which exported files cannot make; train without color, "
            "mean and std of the data sets, or use basicsr-infer"
        )
    net = net.eval()
    channels = input_channels(spec)
    scale = int(getattr(net, "upscale", spec.get("upscale", 1)))
    return ExportNetwork(net, dict(spec), scale, channels, side_rule(net))


def read_photo(path: Path | None, channels: int) -> Photo:
    """Return a picture to try files on: that of the path, else a photograph of scikit-image, else a drawn one."""
    if path is not None:
        return Photo(path.name, _read(path, channels))
    package = importlib.util.find_spec("skimage")
    if package is not None and package.origin is not None:
        found = Path(package.origin).parent / "data/chelsea.png"
        if found.exists() and channels in (1, 3):
            return Photo(f"{found.name} of scikit-image", _read(found, channels))
    return Photo("drawn picture", drawn_picture(DRAWN_SIDE, DRAWN_SIDE, channels))


def _read(path: Path, channels: int) -> np.ndarray:
    return decode_gray(path.read_bytes(), path) if channels == 1 else read_image(path)


def calibration_inputs(folder: Path, network: ExportNetwork) -> list[np.ndarray]:
    """Return inputs for the network made of the photographs in a folder, (1, C, h, w) float32.

    Raises:
        CheckpointError: when none is large enough.
    """
    names = list_images(folder)
    step = max(1, len(names) // CALIBRATION_IMAGES)
    min_side, multiple = network.side_rule
    inputs = []
    for name in names[::step][:CALIBRATION_IMAGES]:
        photo = _read(folder / name, network.channels)
        side = min(CALIBRATION_SIDE, *(length // network.scale for length in photo.shape[:2]))
        side -= side % multiple
        if side >= min_side:
            inputs.append(samples_of(photo, name, network.scale, [], (side, side), False)[-1].lq)
    if not inputs:
        raise CheckpointError(f"{folder}: has no image of {min_side * network.scale} px a side or more")
    return inputs


def build_file(
    spec: FileSpec,
    network: ExportNetwork,
    opset: int,
    built: Sequence[BuiltFile] = (),
    calibration: Sequence[np.ndarray] = (),
) -> BuiltFile:
    """Make a file.

    Args:
        spec: of the file.
        network: to be exported.
        opset: of ONNX files.
        built: the files before it; an INT8 file is made from the float32 one of its size.
        calibration: inputs for INT8 files, (1, C, h, w).
    """
    height, width = spec.size or (None, None)
    facts: dict[str, Any] = {
        "file": spec.name,
        "kind": spec.kind,
        "dtype": spec.dtype,
        "input": "lq",
        "output": "sr",
        "height": height,
        "width": width,
        "tile": height or max(RECOMMENDED_TILE, network.side_rule[0]),
        "for": USES[spec.kind, spec.size is None],
    }
    if spec.kind == "pte":
        from basicsr.runtimes.executorch import executorch_program

        data, nodes = executorch_program(_program(spec, network))
        return BuiltFile(spec, data, {**facts, "nodes": nodes})
    from basicsr.runtimes.onnx import check_model, load_model, onnx_model, quantised

    if spec.dtype == "int8":
        full_precision = spec._replace(dtype="float32")
        whole = next((file for file in built if file.spec[1:] == full_precision[1:]), None)  # all but the name
        model = load_model(whole.data) if whole else onnx_model(_program(spec, network), opset)
        model = quantised(model, [_fitted(lq, spec.size) for lq in calibration])
    else:
        model = onnx_model(_program(spec, network), opset)
        check_model(model, spec.size, opset)
    return BuiltFile(spec, model.SerializeToString(), {**facts, "opset": opset, "nodes": len(model.graph.node)})


def _program(spec: FileSpec, network: ExportNetwork, with_groups: bool = False) -> torch.export.ExportedProgram:
    net = for_graph(network.net, torch.float16 if spec.dtype == "float16" else torch.float32)
    return traced(net, network.channels, spec.size, network.side_rule, with_groups)


def _fitted(lq: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Return the input mirrored and cut to the size."""
    if size is None:
        return lq
    grown = [(0, max(0, side - length)) for side, length in zip(size, lq.shape[2:], strict=True)]
    return np.pad(lq, [(0, 0), (0, 0), *grown], mode="symmetric")[:, :, : size[0], : size[1]]


def check_file(file: BuiltFile, network: ExportNetwork, photo: Photo) -> list[str]:
    """Compare a file with PyTorch, keep the result in `file.parity`, and return what is wrong with it."""
    size, dtype = file.spec.size, file.spec.dtype
    sides = [size] * len(WINDOWS) if size else [sides_beyond(extra, *network.side_rule) for extra in WINDOWS]
    rule = network.side_rule if size is None else (1, 1)
    samples = samples_of(photo.pixels, photo.name, network.scale, sides, size or PHOTO_SIZE, size is not None, rule)
    prepare = getattr(network.net, "prepared", None)
    reference = prepare() if callable(prepare) else network.net
    run, run_with_groups = _runtime(file, network)
    file.parity = [compare(reference, run, sample, run_with_groups) for sample in samples]
    if dtype == "float32":
        return [f"{item.input} {item.height}x{item.width}: {fault}" for item in file.parity for fault in item.faults()]
    lost = -(file.parity[-1].psnr_difference or 0.0)
    limit = MAX_PSNR_LOSS[dtype]
    return [] if lost <= limit else [f"{photo.name}: loses {lost:.3f} dB, may lose {limit} dB"]


def _runtime(file: BuiltFile, network: ExportNetwork) -> tuple[Run, Run | None]:
    """Return the file as a function, and for float32 the same graph with the groups behind the image."""
    is_exact = file.spec.dtype == "float32"
    if file.spec.kind == "pte":
        from basicsr.runtimes.executorch import ExecuTorchNet, executorch_program

        run = ExecuTorchNet(file.data)
        if not is_exact:
            return run, None
        return run, ExecuTorchNet(executorch_program(_program(file.spec, network, with_groups=True))[0])
    from basicsr.runtimes.onnx import OnnxNet, load_model, with_groups

    model = load_model(file.data)
    return OnnxNet(model), OnnxNet(with_groups(model)) if is_exact else None
