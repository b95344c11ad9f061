"""From features to the image: the head that ATD has in common with SwinIR, with its names of weights."""

from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.archs.layers.atd_sizes import Upsampler

HEAD_CHANNELS = 64
RGB_MEAN = (0.4488, 0.4371, 0.4040)


class ReconstructionHead(nn.Module):
    """Base of networks with such a head; they set `upscale` and `upsampler` before `build_head`."""

    upscale: int
    upsampler: Upsampler

    def build_head(self, dim: int, in_chans: int) -> None:
        """Add the layers of `reconstruct`."""
        if self.upsampler == "pixelshuffledirect":
            conv = nn.Conv2d(dim, in_chans * self.upscale**2, 3, padding=1)
            self.upsample = nn.Sequential(conv, nn.PixelShuffle(self.upscale))
            return
        nf = HEAD_CHANNELS if self.upsampler else dim
        if self.upsampler:
            self.conv_before_upsample = nn.Sequential(nn.Conv2d(dim, nf, 3, padding=1), nn.LeakyReLU(0.01))
        if self.upsampler == "nearest+conv":
            self.conv_up1, self.conv_up2, self.conv_hr = (nn.Conv2d(nf, nf, 3, padding=1) for _ in range(3))
        elif self.upsampler == "pixelshuffle":
            steps = [3] if self.upscale == 3 else [2] * (self.upscale.bit_length() - 1)
            stages = [(nn.Conv2d(nf, nf * step**2, 3, padding=1), nn.PixelShuffle(step)) for step in steps]
            self.upsample = nn.Sequential(*(module for stage in stages for module in stage))
        self.conv_last = nn.Conv2d(nf, in_chans, 3, padding=1)

    def reconstruct(self, features: Tensor, x: Tensor) -> Tensor:
        """Return the image, (B, in_chans, s*H, s*W), before range and mean, from features (B, C, H, W)."""
        if self.upsampler == "pixelshuffledirect":
            return self.upsample(features)
        if not self.upsampler:
            return x + self.conv_last(features)
        y = self.conv_before_upsample(features)
        if self.upsampler == "pixelshuffle":
            return self.conv_last(self.upsample(y))
        for conv in (self.conv_up1, self.conv_up2):
            y = F.leaky_relu(conv(F.interpolate(y, scale_factor=2, mode="nearest")), 0.2)
        return self.conv_last(F.leaky_relu(self.conv_hr(y), 0.2))
