"""What the phone demo should compute, with ONNX Runtime and numpy, and checks that several of its tests share."""

import json
import math

import numpy as np
import pytest

from basicsr.images.files import read_image


def desktop(model_folder, image, *, scale=4, whole=False, network="CATANet-XS_photo", tile=None):
    """The page's computation with ONNX Runtime and numpy: (H, W, 3) uint8 to (s*H, s*W, 3) uint8.

    `whole`: in one piece; `tile`: side of tiles that are all of this size, as on WebGPU.
    """
    ort = pytest.importorskip("onnxruntime")
    model_folder = model_folder / f"{network}_x{scale}"
    manifest = json.loads((model_folder / "manifest.json").read_text())
    file = next(file for file in manifest["files"] if "wasm" in file["for"])
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    session = ort.InferenceSession(model_folder / file["file"], options, providers=["CPUExecutionProvider"])
    s = manifest["scale"]
    overlap = min(manifest["overlap"], (tile or file["tile"]) // 4)
    height, width = image.shape[:2]
    sides = [
        tile or tile_side(side, max(side, file["tile"]) if whole else file["tile"], overlap, manifest)
        for side in (height, width)
    ]
    padding = [(0, max(0, tile - side)) for tile, side in zip(sides, (height, width), strict=True)]
    lq = np.pad(image, [*padding, (0, 0)], mode="reflect").astype(np.float32).transpose(2, 0, 1) / np.float32(255)
    total = np.zeros((3, s * lq.shape[1], s * lq.shape[2]))
    weight = np.zeros(total.shape[1:])
    rows, columns = (axis(side, tile, overlap) for side, tile in zip(lq.shape[1:], sides, strict=True))
    for y in rows:
        for x in columns:
            tile = lq[None, :, y : y + sides[0], x : x + sides[1]]
            (sr,) = session.run([file["output"]], {file["input"]: np.ascontiguousarray(tile)})
            window = (slice(s * y, s * (y + sides[0])), slice(s * x, s * (x + sides[1])))
            ramp = np.outer(
                *(ramps(at, starts, size, s) for at, starts, size in ((y, rows, sides[0]), (x, columns, sides[1])))
            )
            total[:, window[0], window[1]] += ramp * sr[0]
            weight[window] += ramp
    sr = (total / weight)[:, : s * height, : s * width].transpose(1, 2, 0)
    return np.floor(np.clip(sr, 0, 1) * 255 + 0.5).astype(np.uint8)


def tile_side(side, most, overlap, manifest):
    """The side of tiles that share no more than they must."""
    least, multiple = manifest["min_side"], manifest["multiple"]
    most = math.ceil(max(most, least) / multiple) * multiple
    count = max(1, math.ceil((side - overlap) / (most - overlap)))
    return min(most, math.ceil(max(least, math.ceil((side + (count - 1) * overlap) / count)) / multiple) * multiple)


def axis(side, tile, overlap):
    """Starts of tiles along a side."""
    if side <= tile:
        return [0]
    count = math.ceil((side - overlap) / (tile - overlap))
    return [i * (side - tile) // (count - 1) for i in range(count)]


def ramps(at, starts, tile, scale):
    """Weights of one tile along an axis, before they are normalised."""
    k = np.arange(tile * scale) + 0.5
    i = starts.index(at)
    weights = np.ones(tile * scale)
    if i > 0:
        weights = np.minimum(weights, k / (scale * (starts[i - 1] + tile - at)))
    if i + 1 < len(starts):
        weights = np.minimum(weights, k[::-1] / (scale * (at + tile - starts[i + 1])))
    return weights


def difference(a, b):
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def check_seen(seen, *, by_service_worker=True):
    """Assert that a scenario asked only the page's own origin, only by GET, and logged nothing."""
    assert seen["messages"] == []
    assert len(seen["requests"]) > 10
    for request in seen["requests"]:
        assert request["url"].startswith((seen["origin"] + "/", "blob:", "data:")), request
        assert request["method"] == "GET" and not request["body"], request
    assert any(request["serviceWorker"] for request in seen["requests"]) == by_service_worker


def check_screenshot(path):
    """Assert that a screenshot has the width of its device, and that something is drawn."""
    shot = read_image(path)
    assert shot.shape[1] == (780 if path.name.startswith("phone") else 1280)
    assert len(np.unique(shot.reshape(-1, 3)[::97], axis=0)) > 15
