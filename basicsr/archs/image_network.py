"""A network that was trained on luma, or on normalised images, as a function of plain RGB images."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from basicsr.archs.layers.tokens import full_precision
from basicsr.config.input_form import InputForm
from basicsr.images.color import rgb2ycbcr_pt, ycbcr2rgb_pt
from basicsr.images.matlab_resize import imresize

CHANNELS = 3


class ImageNetwork(nn.Module):
    """Makes the network's inputs of RGB images, and RGB images of its outputs.

    With `color: y`, the network enlarges the luma of ITU-R BT.601; the colours, Cb and Cr, are enlarged bicubically, as
    is customary for networks of luma.

    Args:
        net: maps inputs in the form (B, C, h, w) to outputs (B, C, s*h, s*w).
        form: of its training images.
        upscale: s.

    Shape:
        (B, 3, h, w) in [0, 1] -> (B, 3, s*h, s*w)
    """

    in_chans = CHANNELS

    def __init__(self, net: nn.Module, form: InputForm, upscale: int):
        super().__init__()
        self.net, self.form, self.upscale = net, form, upscale
        self.family: str | None = getattr(net, "family", None)
        self.min_side: int = getattr(net, "min_side", 1)
        self.multiple_of: int = getattr(net, "multiple_of", 1)
        prepare = getattr(net, "prepared", None)
        if callable(prepare):
            self.prepared = lambda dtype=torch.float32: self._around(prepare(dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Return the images of the network's outputs."""
        return self._around(self.net)(x)

    def _around(self, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def images(x: Tensor) -> Tensor:
            with full_precision(x.device):
                ycbcr = rgb2ycbcr_pt(x) if self.form.color == "y" else None
                inputs = self.form.normalise(x if ycbcr is None else ycbcr[:, :1])
            outputs = forward(inputs)
            with full_precision(x.device):
                sr = self.form.undo(outputs.float())
                if ycbcr is None:
                    return sr
                return ycbcr2rgb_pt(torch.cat([sr, imresize(ycbcr[:, 1:], self.upscale)], dim=1))

        return images
