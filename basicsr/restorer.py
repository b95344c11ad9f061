"""A network as a function from image to image: file, pixels, tensor, network, pixels, file.

The one path of inference. `Restorer.predict` is the seam for other ways to run the network (in tiles),
`Restorer.restore` the one for other sources of pixels (the frames of a video).
"""

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from basicsr.archs import build_network, build_network_for
from basicsr.archs.atd_layers import ATDFamily, describe_state
from basicsr.utils.checkpoint import load_file, load_weights, mismatch, select_weights
from basicsr.utils.errors import CheckpointError, OptionError
from basicsr.utils.img_util import (
    checked_size,
    decode_gray,
    decode_image,
    image_facts,
    to_pixels,
    to_tensor,
    write_image,
)
from basicsr.utils.registry import ARCH_REGISTRY
from basicsr.utils.run import pick_device

logger = logging.getLogger("basicsr")
SCALES = (2, 3, 4)
# The networks that files without `network_g` may hold, in the words of `describe_state`.
PUBLISHED: dict[str | None, list[dict[str, Any]]] = {
    "ATD v2": [{"type": kind, "upscale": scale} for kind in ("ATD-light", "ATD") for scale in SCALES],
    "ATD v1": [{"type": kind, "upscale": scale} for kind in ("ATD-v1-light", "ATD-v1") for scale in SCALES],
    "ATD-U": [{"type": "ATD-U", "in_chans": channels} for channels in (3, 1)],
    None: [{"type": "CATANet-L", "upscale": scale} for scale in SCALES],
}


class Restorer:
    """A network with its weights, as a function from images to images of 8 bits.

    Args:
        net: maps (1, C, h, w) in [0, 1] to (1, C, s*h, s*w); is put into evaluation, on `device`. One that has a faster
            form for inference (`prepared`) runs in it.
        spec: what built it, `{type: CATANet-L, upscale: 4}`.
        device: where it runs.
        is_published: the weights are those of a published network, known by their shapes.
    """

    def __init__(self, net: nn.Module, spec: Mapping[str, Any], device: torch.device, is_published: bool = False):
        self.spec = dict(spec)
        self.is_published = is_published
        self.device = device
        self.upscale = int(getattr(net, "upscale", spec.get("upscale", 1)))
        self.channels = _channels(spec)
        self.is_atd = isinstance(net, ATDFamily)
        net = net.to(device).eval()
        prepare = getattr(net, "prepared", None)
        self._run = prepare(torch.float32) if callable(prepare) else net

    def read(self, path: str | Path) -> np.ndarray:
        """The pixels of a file as the network takes them: RGB (H, W, 3) or gray (H, W, 1), of 8 or 16 bits.

        Gray is what OpenCV decodes. Transparency, frames after the first and (but in JPEG and TIFF) the EXIF
        orientation are left out, with a warning.

        Raises:
            OSError: when the file cannot be read.
            ValueError: when it is cut off, is no image, or has too many pixels.
        """
        path = Path(path)
        facts = image_facts(path)
        image = (decode_gray if self.channels == 1 else decode_image)(path.read_bytes(), path)
        for what in facts.left_out:
            logger.warning("%s: %s is left out", path, what)
        return checked_size(image, facts[:2], path)

    def predict(self, lq: Tensor) -> Tensor:
        """(1, C, h, w) to (1, C, s*h, s*w), float32, not clamped, on the device of the network."""
        with torch.inference_mode():
            return self._run(lq.to(self.device)).float()

    def restore(self, image: np.ndarray) -> np.ndarray:
        """The output for an image as `read` returns it: uint8, (s*H, s*W, 3) RGB or (s*H, s*W) gray.

        Values are clamped to [0, 1] and rounded to the nearest of 256 levels.

        Raises:
            ValueError: when the network gives something else than numbers.
        """
        sr = self.predict(to_tensor(image)[None])
        if not sr.isfinite().all():
            raise ValueError("the network gives values that are no numbers (nan or inf); its weights are damaged")
        return to_pixels(sr)

    def restore_file(self, source: str | Path, target: str | Path) -> tuple[int, int]:
        """Write the output for the image `source` to `target`, in the format that its suffix names.

        Folders are made. An existing file is replaced; it is whole at any time, old or new.

        Returns:
            (height, width) of the output in pixels.

        Raises:
            OSError: when a file cannot be read or written.
            ValueError: when the image is damaged, or the network gives no numbers for it; naming the file.
        """
        image = self.read(source)
        try:
            output = self.restore(image)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        write_image(target, output)
        return output.shape[0], output.shape[1]


def load_restorer(path: str | Path, device: torch.device) -> Restorer:
    """The network of a weight file, which its `network_g` describes or, in a published file, the shapes of its weights.

    The weights are `params_ema` or, where the file has none, `params`.

    Raises:
        CheckpointError: when the file is missing or damaged, its `network_g` describes no network, or its weights do
            not fit it.
    """
    content = load_file(path)
    key = "params_ema" if "params_ema" in content else "params"
    weights = select_weights(content, key, path)[1]
    is_published = content.get("network_g") is None
    spec: dict[str, Any] = published_spec(weights, path) if is_published else content["network_g"]
    net = build_network_for(weights, spec, path)
    load_weights(net, path, key)
    return Restorer(net, spec, device, is_published)


def published_spec(weights: Mapping[str, Tensor], path: str | Path) -> dict[str, Any]:
    """The published network, of those in `PUBLISHED`, whose weights have these names and shapes.

    Raises:
        CheckpointError: when it is none of them.
    """
    for spec in PUBLISHED[describe_state(weights)]:
        with torch.device("meta"):  # only names and shapes matter
            net = build_network(spec)
        if not mismatch(net, weights):
            return spec
    kinds = ", ".join(dict.fromkeys(spec["type"] for specs in PUBLISHED.values() for spec in specs))
    raise CheckpointError(
        f"{path}: carries no network_g, and its weights are of none of the published networks ({kinds}); add the "
        "network_g of its options to the file, beside params"
    )


def device_called(name: str) -> torch.device:
    """The device of a name: auto, cpu, cuda, cuda:1, mps; auto is the GPU where there is one, else the CPU.

    Raises:
        OptionError: when there is no such device here.
    """
    if name == "auto":
        return pick_device("auto")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(f"--device: {name!r} cannot be used here; take auto or cpu") from error
    return device


def _channels(spec: Mapping[str, Any]) -> int:
    """Of the input of a network: what its spec says, else its constructor, else 3."""
    if "in_chans" in spec:
        return int(spec["in_chans"])
    argument = inspect.signature(ARCH_REGISTRY.get(spec["type"])).parameters.get("in_chans")
    return 3 if argument is None or argument.default is inspect.Parameter.empty else int(argument.default)
