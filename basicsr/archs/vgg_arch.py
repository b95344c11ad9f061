"""VGG features for the perceptual loss: frozen ones, and BasicSR 1.4's extractor.

Source: Simonyan and Zisserman, "Very deep convolutional networks", ICLR 2015; the layers are torchvision's.
"""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from basicsr.config.ranges import Pixels
from basicsr.config.registry import ARCH_REGISTRY
from basicsr.engine.cached_weights import cached_weights
from basicsr.engine.checkpoint import load_file
from basicsr.errors import CheckpointError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
VGGType = Literal["vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]


class VGGFeatures(nn.Module):
    """Outputs of chosen layers of a pretrained VGG network, in eval mode and without gradients for its parameters.

    Args:
        layers: names such as conv1_1, bn1_1 (`*_bn` only), relu1_1, conv1_2, ..., pool1, conv2_1, ..., pool5.
        weights: path of a torchvision state dict of `vgg_type`; None: that of torchvision's cache, or of an old
            project's `experiments/pretrained_models`. Nothing is downloaded.
        vgg_type: the name of the torchvision network.
        use_input_norm: subtract ImageNet's mean and divide by its deviation first.
        range_norm: images are in [-1, 1], not [0, 1].

    Shape:
        images: (B, 3, H, W). output: layer name -> (B, C, H', W').

    Raises:
        CheckpointError: when `weights` is missing, damaged or of another network.
        ValueError: for an unknown layer or network, or no layer.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        layers: Sequence[str],
        weights: str | None = None,
        vgg_type: VGGType = "vgg19",
        use_input_norm: bool = True,
        range_norm: bool = False,
    ) -> None:
        super().__init__()
        named = _needed_layers(vgg_type, layers, "layer_weights")
        self.layers = frozenset(layers)
        self.names = list(named)
        self.features = nn.Sequential(*named.values())
        _load(self.features, Path(weights) if weights else _cached_weights(vgg_type), vgg_type)
        self.requires_grad_(False)
        self.use_input_norm = use_input_norm
        self.range_norm = range_norm
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.eval()

    def train(self, mode: bool = True) -> "VGGFeatures":
        """Stay in eval mode: batch norm must not follow the images of a training run."""
        return super().train(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the features of each chosen layer."""
        x = (images + 1) / 2 if self.range_norm else images
        x = (x - self.mean) / self.std if self.use_input_norm else x
        found = {}
        for name, layer in zip(self.names, self.features, strict=True):
            x = layer(x)
            if name in self.layers:
                found[name] = x
        return found


@ARCH_REGISTRY.register()
class VGGFeatureExtractor(nn.Module):
    """`VGGFeatures` with the arguments, the names of layers and the weight names that BasicSR 1.4 has.

    Args:
        layer_name_list: layers to return, such as conv1_2, relu3_1, pool4.
        vgg_type: the torchvision network, vgg11 to vgg19, also with `_bn`.
        use_input_norm: subtract ImageNet's mean and divide by its deviation first.
        range_norm: images are in [-1, 1], not [0, 1].
        requires_grad: train its parameters, and let batch norm follow the images in training mode.
        remove_pooling: leave the poolings out.
        pooling_stride: stride of the poolings, whose windows have 2 px a side.
        weights: path of a torchvision state dict; None: the file that torchvision, or BasicSR, keeps on this machine.

    Shape:
        (B, 3, H, W) -> layer name -> (B, C, H', W').

    Raises:
        CheckpointError: when there are no weights, or of another network. Nothing is downloaded.
        ValueError: for an unknown layer or network.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        layer_name_list: Sequence[str],
        vgg_type: VGGType = "vgg19",
        use_input_norm: bool = True,
        range_norm: bool = False,
        requires_grad: bool = False,
        remove_pooling: bool = False,
        pooling_stride: Pixels = 2,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.layer_name_list = list(layer_name_list)
        self.use_input_norm, self.range_norm, self.requires_grad = use_input_norm, range_norm, requires_grad
        named = _needed_layers(vgg_type, self.layer_name_list, "layer_name_list")
        loaded = nn.Sequential(*named.values())
        _load(loaded, Path(weights) if weights else _cached_weights(vgg_type), vgg_type)
        layers = OrderedDict(zip(named, loaded, strict=True))
        for name in [name for name in layers if name.startswith("pool")]:
            layers[name] = nn.MaxPool2d(2, stride=pooling_stride)
            if remove_pooling:
                del layers[name]
        self.vgg_net = nn.Sequential(layers)
        if use_input_norm:
            self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
            self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.vgg_net.requires_grad_(requires_grad).train(requires_grad)

    def train(self, mode: bool = True) -> "VGGFeatureExtractor":
        """Set the mode; without `requires_grad` batch norm stays in eval mode, so that it follows no images."""
        super().train(mode)
        self.vgg_net.train(mode and self.requires_grad)
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the features of each chosen layer."""
        x = (x + 1) / 2 if self.range_norm else x
        x = (x - self.mean) / self.std if self.use_input_norm else x
        found = {}
        for name, layer in self.vgg_net.named_children():
            x = layer(x)
            if name in self.layer_name_list:
                found[name] = x
        return found


def _needed_layers(vgg_type: str, layers: Sequence[str], key: str) -> dict[str, nn.Module]:
    """Return the layers up to the last of `layers`; see `_named_layers`.

    Raises:
        ValueError: for an unknown network or layer, naming `key`.
    """
    if vgg_type not in get_args(VGGType):
        raise ValueError(f"vgg_type: must be one of {', '.join(get_args(VGGType))}, got {vgg_type!r}")
    named = _named_layers(vgg_type)
    unknown = [layer for layer in layers if layer not in named]
    if unknown or not layers:
        raise ValueError(f"{key}: {vgg_type} has no layers {unknown}; needs some of {', '.join(named)}")
    names = list(named)[: 1 + max(list(named).index(layer) for layer in layers)]
    return {name: named[name] for name in names}


def _named_layers(vgg_type: str) -> dict[str, nn.Module]:
    """Return torchvision's layers by name, in order, on the meta device: loading gives them memory."""
    from torchvision import models

    with torch.device("meta"):
        features = getattr(models, vgg_type)(weights=None).features
    kinds: dict[type, str] = {nn.Conv2d: "conv", nn.BatchNorm2d: "bn", nn.ReLU: "relu"}
    named: dict[str, nn.Module] = {}
    block, index = 1, 0
    for layer in features:
        if isinstance(layer, nn.MaxPool2d):
            named[f"pool{block}"] = layer
            block, index = block + 1, 0
        else:
            index += isinstance(layer, nn.Conv2d)
            # torchvision's ReLU works in place and would overwrite the features of the convolution before it
            named[f"{kinds[type(layer)]}{block}_{index}"] = nn.ReLU() if isinstance(layer, nn.ReLU) else layer
    return named


def _cached_weights(vgg_type: str) -> Path:
    """Return the file of torchvision's weights that is on this machine already.

    Raises:
        CheckpointError: where there is none; it says how to fetch it.
    """
    from torchvision import models

    url = models.get_model_weights(vgg_type).DEFAULT.url
    return cached_weights(url, f"the weights of {vgg_type} are needed", key="weights")


def _load(features: nn.Sequential, path: Path, vgg_type: str) -> None:
    """Give `features`, which is on the meta device, the parameters of a torchvision state dict."""
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file; PerceptualLoss needs the torchvision weights of {vgg_type}, and downloads nothing: "
            "save them once with torchvision and give their path as `weights`"
        )
    state = load_file(path)
    wanted = features.state_dict()
    try:
        features.load_state_dict({key: state[f"features.{key}"] for key in wanted}, assign=True)
    except (KeyError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"{path}: does not fit {vgg_type}: {error}") from error
