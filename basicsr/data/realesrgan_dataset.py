"""Ground truth with random blur kernels, for models that degrade it on the device, and pairs for the same models.

Source: Wang et al., Real-ESRGAN, ICCVW 2021, section 3 and appendix.
"""

import math
import random
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from basicsr.config.ranges import (
    Megabytes,
    PixelDeviation,
    PixelMean,
    Pixels,
    Probability,
    Range,
    Scale,
    Seed,
    Weight,
)
from basicsr.config.registry import DATASET_REGISTRY
from basicsr.data.cache import CachedImages
from basicsr.data.crops import flip_and_rotate, pad_to_side, random_window
from basicsr.data.data_sampler import SampleIndex, locate
from basicsr.data.listing import chosen_names
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.storage import StoredImage, open_store
from basicsr.engine.random_state import seeded_generators
from basicsr.images.blur_kernels import circular_lowpass_kernel, draw_uniform, random_mixed_kernels
from basicsr.images.files import to_tensor

KINDS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
SMALLEST_KERNEL = 7  # px
LOW_CUTOFF_FROM = 13  # px; larger sinc kernels may have lower cutoffs
KERNEL_STREAM = 2  # tells the generators of kernels from those of crops and flips
Ends = tuple[float, float]
KernelSide = Annotated[int, Range(SMALLEST_KERNEL, 255)]  # px
Deviation = Annotated[float, Range(0, 100, open_low=True)]  # px; also the shape of a kernel


@DATASET_REGISTRY.register()
class RealESRGANDataset(Dataset[dict[str, Any]]):
    """`{gt, kernel1, kernel2, sinc_kernel, gt_path}`: a crop, float32 RGB in [0, 1], and three filters of K x K.

    For RealESRNetModel and RealESRGANModel, which make the low-resolution images. Every random choice follows from
    (seed, epoch, index).

    Args:
        dataroot_gt: folder of ground truth, subfolders included, or an LMDB.
        meta_info: text file that lists the images to use, one name a line.
        io_backend: {type: disk} for folders, {type: lmdb} for LMDBs, whose paths end in `.lmdb`.
        blur_kernel_size: K, largest side of a kernel in pixels, odd, at least 7; smaller ones are padded.
        kernel_list: kinds of blur kernels of the first round.
        kernel_prob: weight of each kind.
        blur_sigma: lowest and highest standard deviation in pixels.
        betag_range: lowest and highest shape of the generalised kinds.
        betap_range: lowest and highest shape of the plateaus.
        sinc_prob: probability of a sinc filter instead of a blur.
        blur_kernel_size2: as blur_kernel_size, of the second round; both must be equal.
        kernel_list2: as kernel_list, of the second round.
        kernel_prob2: as kernel_prob.
        blur_sigma2: as blur_sigma.
        betag_range2: as betag_range.
        betap_range2: as betap_range.
        sinc_prob2: as sinc_prob.
        final_sinc_prob: probability of the last sinc filter; otherwise it changes nothing.
        crop_pad_size: side of the crop in pixels; smaller images are mirrored.
        use_hflip: mirror samples at random.
        use_rot: turn samples by multiples of 90 degrees at random.
        cache_mb: limit in MiB for decoded images in memory, shared by the workers; 0: decode every time.
        phase: must be train.
        seed: of all random choices.

    Raises:
        FileNotFoundError: when the folder, the LMDB or a listed image is missing.
        ValueError: when an argument is out of range, or images are damaged.
    """

    def __init__(
        self,
        *,
        dataroot_gt: str,
        meta_info: str | None = None,
        io_backend: dict | None = None,
        blur_kernel_size: KernelSide = 21,
        kernel_list: Sequence[str] = KINDS,
        kernel_prob: Sequence[Weight] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
        blur_sigma: tuple[Deviation, Deviation] = (0.2, 3.0),
        betag_range: tuple[Deviation, Deviation] = (0.5, 4.0),
        betap_range: tuple[Deviation, Deviation] = (1.0, 2.0),
        sinc_prob: Probability = 0.1,
        blur_kernel_size2: KernelSide = 21,
        kernel_list2: Sequence[str] = KINDS,
        kernel_prob2: Sequence[Weight] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
        blur_sigma2: tuple[Deviation, Deviation] = (0.2, 1.5),
        betag_range2: tuple[Deviation, Deviation] = (0.5, 4.0),
        betap_range2: tuple[Deviation, Deviation] = (1.0, 2.0),
        sinc_prob2: Probability = 0.1,
        final_sinc_prob: Probability = 0.8,
        crop_pad_size: Pixels = 400,
        use_hflip: bool = True,
        use_rot: bool = False,
        cache_mb: Megabytes = 2048,
        phase: str = "train",
        seed: Seed = 0,
    ) -> None:
        if phase != "train":
            raise ValueError(f"phase: RealESRGANDataset is for training, not {phase}; use PairedImageDataset there")
        if blur_kernel_size != blur_kernel_size2:
            raise ValueError(
                f"blur_kernel_size2: must be {blur_kernel_size}, as blur_kernel_size, got {blur_kernel_size2}"
            )
        if not 0 <= final_sinc_prob <= 1:
            raise ValueError(f"final_sinc_prob: must be a probability, 0 to 1, got {final_sinc_prob}")
        if crop_pad_size < 1 or cache_mb < 0:
            name = "cache_mb" if cache_mb < 0 else "crop_pad_size"
            raise ValueError(f"{name}: is too small, got {cache_mb if cache_mb < 0 else crop_pad_size}")
        self.kernels = (
            KernelDraw("", blur_kernel_size, kernel_list, kernel_prob, blur_sigma, betag_range, betap_range, sinc_prob),
            KernelDraw(
                "2", blur_kernel_size, kernel_list2, kernel_prob2, blur_sigma2, betag_range2, betap_range2, sinc_prob2
            ),
        )
        self.final_sinc_prob, self.crop_pad_size = final_sinc_prob, crop_pad_size
        self.use_hflip, self.use_rot, self.seed = use_hflip, use_rot, seed
        store = open_store(dataroot_gt, io_backend)
        images = [StoredImage(store, name) for name in chosen_names(store, meta_info)]
        self.gt_paths = [image.path for image in images]
        self._images = CachedImages(images, store.sizes([image.name for image in images]), cache_mb)

    @property
    def stored_images(self) -> Sequence[StoredImage]:
        """All images that are read from files."""
        return self._images.images

    def __len__(self) -> int:
        return len(self.gt_paths)

    def __getitem__(self, key: int | SampleIndex) -> dict[str, Any]:
        """Return the sample of `key`; a plain integer means epoch 0."""
        sample, position = locate(key, len(self))
        rng = np.random.default_rng([self.seed, *sample])
        gt = pad_to_side(self._images[position], self.crop_pad_size)
        gt = random_window(gt.shape[0], gt.shape[1], self.crop_pad_size, rng).crop(gt)
        (gt,) = flip_and_rotate([gt], rng, hflip=self.use_hflip, rot=self.use_rot)
        with seeded_generators([self.seed, *sample, KERNEL_STREAM]):
            kernel1, kernel2 = (kernels() for kernels in self.kernels)
            sinc_kernel = self._last_filter()
        path = str(self.gt_paths[position])
        return {
            "gt": to_tensor(gt), "kernel1": kernel1, "kernel2": kernel2, "sinc_kernel": sinc_kernel, "gt_path": path
        }  # fmt: skip

    def _last_filter(self) -> Tensor:
        """Draw the last sinc filter, or one that changes nothing."""
        side = self.kernels[0].size
        if np.random.uniform() < self.final_sinc_prob:
            size = _draw_size(side)
            cutoff = draw_uniform((math.pi / 3, math.pi))
            return torch.from_numpy(circular_lowpass_kernel(cutoff, size, pad_to=side)).float()
        pulse = torch.zeros(side, side)
        pulse[side // 2, side // 2] = 1
        return pulse


class KernelDraw:
    """Draws the kernels of one round, (K, K) float32, from the global generators.

    Args:
        round_name: end of the names of its options, for messages.
        size: K.
        kinds: of blurs; see `random_mixed_kernels` for these and the following.
        weights: of each kind.
        sigma: range in pixels.
        betag: range of shapes.
        betap: range of shapes.
        sinc_prob: probability of a sinc filter.

    Raises:
        ValueError: naming the option that is out of range.
    """

    def __init__(
        self,
        round_name: str,
        size: int,
        kinds: Sequence[str],
        weights: Sequence[float],
        sigma: Ends,
        betag: Ends,
        betap: Ends,
        sinc_prob: float,
    ) -> None:
        if size < SMALLEST_KERNEL or size % 2 == 0:
            raise ValueError(f"blur_kernel_size{round_name}: must be odd and at least {SMALLEST_KERNEL}, got {size}")
        if not kinds or not set(kinds) <= set(KINDS):
            raise ValueError(f"kernel_list{round_name}: must be some of {', '.join(KINDS)}, got {list(kinds)}")
        if len(weights) != len(kinds) or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"kernel_prob{round_name}: needs one weight >= 0 for each kind, got {list(weights)}")
        for name, ends in {"blur_sigma": sigma, "betag_range": betag, "betap_range": betap}.items():
            if len(ends) != 2 or not 0 < ends[0] <= ends[1]:
                raise ValueError(f"{name}{round_name}: must be [lowest, highest] above 0, got {list(ends)}")
        if not 0 <= sinc_prob <= 1:
            raise ValueError(f"sinc_prob{round_name}: must be a probability, 0 to 1, got {sinc_prob}")
        self.size, self.kinds, self.weights, self.sinc_prob = size, list(kinds), list(weights), sinc_prob
        self.ranges = {"sigma_x_range": sigma, "sigma_y_range": sigma, "betag_range": betag, "betap_range": betap}

    def __call__(self) -> Tensor:
        """Return a random kernel, padded with zeros to K x K."""
        size = _draw_size(self.size)
        if np.random.uniform() < self.sinc_prob:
            lowest = math.pi / 3 if size < LOW_CUTOFF_FROM else math.pi / 5
            kernel = circular_lowpass_kernel(draw_uniform((lowest, math.pi)), size)
        else:
            kernel = random_mixed_kernels(self.kinds, self.weights, size, **self.ranges)
        return torch.from_numpy(np.pad(kernel, (self.size - size) // 2)).float()


def _draw_size(largest: int) -> int:
    """Draw an odd side of at least `SMALLEST_KERNEL`."""
    return random.choice(range(SMALLEST_KERNEL, largest + 1, 2))


@DATASET_REGISTRY.register()
class RealESRGANPairedDataset(PairedImageDataset):
    """`PairedImageDataset` under the name and with the arguments of Real-ESRGAN, to fine-tune on pairs from files.

    Args:
        meta_info: text file that lists the ground truth to use, one name a line; the same as meta_info_file.
    """

    def __init__(
        self,
        *,
        dataroot_gt: str,
        dataroot_lq: str | None = None,
        filename_tmpl: str = "{}",
        meta_info: str | None = None,
        meta_info_file: str | None = None,
        io_backend: dict | None = None,
        scale: Scale = 4,
        phase: str = "train",
        gt_size: Pixels | None = None,
        use_hflip: bool = True,
        use_rot: bool = True,
        mean: Sequence[PixelMean] | None = None,
        std: Sequence[PixelDeviation] | None = None,
        cache_mb: Megabytes = 2048,
        seed: Seed = 0,
    ) -> None:
        super().__init__(
            dataroot_gt=dataroot_gt,
            dataroot_lq=dataroot_lq,
            filename_tmpl=filename_tmpl,
            meta_info_file=meta_info or meta_info_file,
            io_backend=io_backend,
            scale=scale,
            phase=phase,
            gt_size=gt_size,
            use_hflip=use_hflip,
            use_rot=use_rot,
            mean=mean,
            std=std,
            cache_mb=cache_mb,
            seed=seed,
        )
