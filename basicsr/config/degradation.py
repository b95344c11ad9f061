"""Options of the degradation that Real-ESRGAN's models apply on the device: the section `degradation`."""

from dataclasses import dataclass
from typing import Annotated

from basicsr.config.ranges import Levels, Pixels, Probability, Range, Weight
from basicsr.config.section import Section, option

Factor = Annotated[float, Range(0.01, 10)]
PoissonScale = Annotated[float, Range(0, 100)]
JPEGQuality = Annotated[float, Range(1, 100)]
RESIZE_PROBABILITIES = ("resize_prob", "resize_prob2")
RANGES = tuple(f"{name}_range{end}" for name in ("resize", "noise", "poisson_scale", "jpeg") for end in ("", "2"))


@dataclass(frozen=True, kw_only=True)
class DegradationOptions(Section):
    """RealESRNetModel, RealESRGANModel: two rounds of blur, resizing, noise and JPEG, applied to batches on the device.

    The blur kernels come from `RealESRGANDataset`. In files of Real-ESRGAN these keys stand at the top level, which
    works, too.
    """

    gt_usm: bool = option(True, "sharpen the ground truth by unsharp masking, before it is degraded")
    l1_gt_usm: bool = option(True, "RealESRGANModel: compare pixels with the sharpened ground truth")
    percep_gt_usm: bool = option(True, "RealESRGANModel: compare features with the sharpened ground truth")
    gan_gt_usm: bool = option(False, "RealESRGANModel: show the discriminator the sharpened ground truth")
    high_order_degradation: bool = option(
        True, "accepted for files of Real-ESRGAN; batches that hold `lq` instead of kernels are never degraded"
    )
    resize_prob: tuple[Weight, Weight, Weight] = option((0.2, 0.7, 0.1), "weights of enlarging, shrinking, neither")
    resize_range: tuple[Factor, Factor] = option((0.15, 1.5), "smallest and largest factor of the first resizing")
    gaussian_noise_prob: Probability = option(0.5, "probability of Gaussian noise; otherwise it is Poisson noise")
    noise_range: tuple[Levels, Levels] = option(
        (1.0, 30.0), "lowest and highest deviation of Gaussian noise, in 8-bit levels"
    )
    poisson_scale_range: tuple[PoissonScale, PoissonScale] = option(
        (0.05, 3.0), "lowest and highest factor on Poisson noise"
    )
    gray_noise_prob: Probability = option(0.4, "probability of the same noise in all channels")
    jpeg_range: tuple[JPEGQuality, JPEGQuality] = option((30.0, 95.0), "lowest and highest quality of the JPEG")
    second_blur_prob: Probability = option(0.8, "probability of a blur in the second round")
    resize_prob2: tuple[Weight, Weight, Weight] = option((0.3, 0.4, 0.3), "as resize_prob, in the second round")
    resize_range2: tuple[Factor, Factor] = option((0.3, 1.2), "as resize_range, relative to the output size")
    gaussian_noise_prob2: Probability = option(0.5, "as gaussian_noise_prob, in the second round")
    noise_range2: tuple[Levels, Levels] = option((1.0, 25.0), "as noise_range, in the second round")
    poisson_scale_range2: tuple[PoissonScale, PoissonScale] = option(
        (0.05, 2.5), "as poisson_scale_range, in the second round"
    )
    gray_noise_prob2: Probability = option(0.4, "as gray_noise_prob, in the second round")
    jpeg_range2: tuple[JPEGQuality, JPEGQuality] = option((30.0, 95.0), "as jpeg_range, in the second round")
    gt_size: Pixels = option(
        256, "side in pixels of the crop of the ground truth that is trained on, a multiple of scale"
    )
    queue_size: Annotated[int, Range(0, 65_536)] = option(
        180,
        "pairs in the pool that batches are drawn from, so that the images of a batch differ in their resizing and "
        "noise; a multiple of the batch size. 0: no pool",
    )

    def __post_init__(self) -> None:
        for name in RESIZE_PROBABILITIES:
            if sum(getattr(self, name)) <= 0:
                raise ValueError(f"{name}: must be three weights, not all 0, got {list(getattr(self, name))}")
        for name in RANGES:
            ends = getattr(self, name)
            if ends[0] > ends[1]:
                raise ValueError(f"{name}: must be [lowest, highest], got {list(ends)}")
