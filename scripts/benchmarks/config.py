"""A configuration to measure: which network, in which form, type and precision, on which device."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from basicsr.archs import build_network
from basicsr.archs.published import load_network
from basicsr.config.load import load_options
from basicsr.config.yaml_file import load_yaml
from basicsr.engine.checkpoint import load_weights
from basicsr.engine.device import set_matmul_precision
from basicsr.errors import OptionError
from benchmarks.literal import literal_twin

CENTRES_SIDE = 16  # px of the image that sets token centres; small, so that it does not count in the peak of memory

Row = dict[str, Any]  # strings name what was measured, numbers are results, lists are samples


class Size(NamedTuple):
    """Size of an image in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class Config:
    """A network to measure. The fields are the keys of `--vs`."""

    net: str
    scale: int
    weights: str | None
    form: str
    dtype: str
    device: str
    compile: bool
    graph: bool = False
    precision: str = "highest"

    def autocast(self) -> Any:
        """Return the context of a forward; the prepared form has its precision built in."""
        if self.form == "prepared" or self.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.device, getattr(torch, self.dtype))

    def build(self) -> tuple[Any, Any]:
        """Return the network in evaluation in its readable form, and in the form to measure; on the device.

        Raises:
            OptionError: when the device is missing, or the form or graph cannot be had.
        """
        if not {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[self.device]:
            raise OptionError(f"device: there is no {self.device} on this machine")
        if self.graph and self.device != "cuda":
            raise OptionError(f"graph: CUDA graphs need device cuda, got {self.device}; use no-graph")
        if self.graph and self.form == "literal":
            raise OptionError("graph: the literal form waits for the GPU in its forward; use no-graph")
        set_matmul_precision(self.precision)
        net: Any = build_net(self).to(self.device)
        form = net
        if self.form == "literal":
            form = literal_twin(net).to(self.device)
        elif self.form == "prepared":
            if not hasattr(net, "prepared"):
                raise OptionError(
                    f"form: {type(net).__name__} has no prepared form, test.py runs it as it is; use form train"
                )
            if self.dtype == "float16":
                raise OptionError(f"form: {type(net).__name__} has no prepared form in float16; use form train")
            form = net.prepared(dtype=getattr(torch, self.dtype))
        return net, torch.compile(form, dynamic=False) if self.compile else form

    @property
    def mode(self) -> str:
        """Return how the network runs: eager, compiled, graph, or the last two."""
        return ", ".join(name for name, on in (("compiled", self.compile), ("graph", self.graph)) if on) or "eager"

    def facts(self, net: Any, size: Size) -> Row:
        """Return the beginning of a row."""
        name = Path(self.net).name if Path(self.net).is_file() else self.net
        weights = f" ({Path(self.weights).name})" if self.weights else ""
        output = Size(size.width * net.upscale, size.height * net.upscale)
        count = net.multiply_adds(size.height, size.width) if hasattr(net, "multiply_adds") else None
        return {
            "network": f"{name} x{net.upscale}{weights}",
            "form": self.form,
            "dtype": self.dtype,
            "device": self.device,
            "precision": self.precision,
            "mode": self.mode,
            "input": str(size),
            "output": str(output),
            "parameters": sum(p.numel() for p in net.parameters()),
            "multi_adds_conv_linear_G": count and count[0] / 1e9,
            "multi_adds_attention_G": count and count[1] / 1e9,
        }


def build_net(config: Config) -> nn.Module:
    """Return the network of a configuration in evaluation, its token centres set."""
    torch.manual_seed(0)  # the same weights in every form
    path, weights = Path(config.net), config.weights
    if path.suffix in (".pth", ".pt"):
        net = load_network(path)
    elif path.suffix in (".yml", ".yaml"):
        net = build_network(load_options(path, is_train="train" in load_yaml(path)[0]).network_g)
    else:
        net = build_network({"type": config.net, "upscale": config.scale})
    if weights:
        load_weights(net, weights)
    if any(name.endswith("initted") and not flag for name, flag in net.named_buffers()):
        with torch.no_grad():
            net.train()(torch.rand(1, channels_of(net), CENTRES_SIDE, CENTRES_SIDE))
    return net.eval()


def channels_of(net: nn.Module) -> int:
    """Return the channels of the images that a network takes."""
    return next((module.in_channels for module in net.modules() if isinstance(module, nn.Conv2d)), 3)
