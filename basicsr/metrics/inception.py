"""The Inception network whose features FID compares: that of TensorFlow's 2015 release.

Source: Szegedy et al., "Rethinking the Inception architecture", CVPR 2016; the layers are torchvision's. The weights
were trained with TensorFlow's average pooling, which leaves out the border, and with a maximum in place of the average
in the last block. Weights: `pt_inception-2015-12-05-6726825d.pth` of github.com/mseitzer/pytorch-fid (Apache-2.0).
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models
from torchvision.models import inception

from basicsr.engine.cached_weights import cached_weights
from basicsr.engine.checkpoint import load_file
from basicsr.errors import CheckpointError

WEIGHTS_URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
)
CLASSES = 1008
SIDE = 299  # px: of the images it was trained on


def _pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class _BlockA(inception.InceptionA):
    """Torchvision's block with TensorFlow's average."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        branches = [self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x))]
        branches.append(self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))))
        return [*branches, self.branch_pool(_pool(x))]


class _BlockC(inception.InceptionC):
    """Torchvision's block with TensorFlow's average."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        branches = [self.branch1x1(x), self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))]
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        branches.append(self.branch7x7dbl_5(self.branch7x7dbl_4(double)))
        return [*branches, self.branch_pool(_pool(x))]


class _BlockE(inception.InceptionE):
    """Torchvision's block with TensorFlow's average, or with a maximum."""

    takes_maximum = False

    def _forward(self, x: Tensor) -> list[Tensor]:
        single, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = [self.branch1x1(x), torch.cat([self.branch3x3_2a(single), self.branch3x3_2b(single)], 1)]
        branches.append(torch.cat([self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)], 1))
        pooled = F.max_pool2d(x, 3, 1, 1) if self.takes_maximum else _pool(x)
        return [*branches, self.branch_pool(pooled)]


class FIDInception(nn.Module):
    """Features of images before the last layer of Inception-v3.

    Args:
        weights: path of the file named above; None: that of PyTorch's cache. Nothing is downloaded.
        resize_input: bring the images to 299 x 299 px, bilinear.
        normalize_input: images are in [0, 1]; False: in [-1, 1].

    Shape:
        images: (B, 3, H, W), RGB. output: (B, 2048).

    Raises:
        CheckpointError: when `weights` is missing, damaged or of another network.
    """

    def __init__(
        self, weights: str | Path | None = None, resize_input: bool = True, normalize_input: bool = True
    ) -> None:
        super().__init__()
        self.resize_input = resize_input
        self.normalize_input = normalize_input
        with torch.device("meta"):
            net = models.inception_v3(weights=None, num_classes=CLASSES, aux_logits=False, init_weights=False)
        for name, block in net.named_children():
            for patched in (_BlockA, _BlockC, _BlockE):
                if type(block) is patched.__mro__[1]:
                    block.__class__ = patched  # the same layers, pooled in another way
            if name == "Mixed_7c":
                block.takes_maximum = True
        path = Path(weights) if weights else cached_weights(WEIGHTS_URL, "FID needs Inception's weights", "weights")
        state = load_file(path)
        try:
            net.load_state_dict({name: state[name] for name in net.state_dict()}, assign=True)
        except (KeyError, RuntimeError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path}: does not fit Inception-v3: {error}") from error
        net.fc = nn.Identity()
        self.net = net.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "FIDInception":
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features (B, 2048)."""
        if self.resize_input:
            images = F.interpolate(images, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        return self.net(2 * images - 1 if self.normalize_input else images)
