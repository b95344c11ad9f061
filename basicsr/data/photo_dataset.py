"""Photographs, and small copies such as phones and the web keep: downscaled, noisy, compressed as JPEG."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np

from basicsr.config.ranges import Megabytes, PixelDeviation, PixelMean, Pixels, Probability, Quality, Range, Scale, Seed
from basicsr.config.registry import DATASET_REGISTRY
from basicsr.data.crops import Window
from basicsr.data.data_sampler import SampleIndex, locate
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.photo_degradation import PhotoDegradation, with_jpeg_margin

BlurSigma = Annotated[float, Range(0, 10)]  # in ground-truth pixels
NoiseSigma = Annotated[float, Range(0, 100)]  # in 8-bit levels
DEGRADATION_STREAM = 1  # tells the generator of degradations from that of crops and flips


@DATASET_REGISTRY.register()
class PhotoDataset(PairedImageDataset):
    """`{lq, gt, lq_path, gt_path}` as of PairedImageDataset, but LR images are photographs as people have them.

    They are made on the fly, in 8 bits: (1) Gaussian blur, (2) downscaling, (3) Gaussian noise, (4) JPEG; every choice
    is random. In training it follows from (seed, epoch, index), the image is flipped and rotated before, so that JPEG's
    grid is upright, and the grid has a random offset to the crop. In validation and test it follows from (seed, index):
    an image is degraded in the same way every time. `lq_path` repeats `gt_path`.

    `cache: device` is not possible, as batches are not mere crops: a warning says so, and memory is used.

    Args:
        dataroot_gt: folder of ground truth, subfolders included, or an LMDB.
        meta_info_file: text file that lists the ground truth to use, one name a line.
        io_backend: {type: disk} for folders, {type: lmdb} for LMDBs, whose paths end in `.lmdb`.
        scale: ground-truth pixels for each low-resolution pixel, >= 1.
        phase: "train", "val" or "test".
        gt_size: side of a training crop in ground-truth pixels, a multiple of `scale`; None: whole images.
        use_hflip: mirror training samples at random.
        use_rot: turn training samples by multiples of 90 degrees at random.
        color: "y": the luma alone, one channel.
        mean: subtracted from each channel.
        std: divides each channel.
        cache_mb: limit in MiB for decoded images in memory, shared by the workers; 0: decode every time.
        blur_sigma: lowest and highest standard deviation of the blur, in ground-truth pixels.
        blur_prob: probability of a blur.
        kernels: ways of downscaling, one of which is drawn: bicubic, that of MATLAB; area, the mean of scale x scale
            pixels; bilinear and lanczos, of Pillow, widened by the scale against aliasing.
        noise_sigma: lowest and highest standard deviation of the noise, in 8-bit levels.
        noise_prob: probability of noise.
        luma_noise_prob: probability that noise is the same in the three channels.
        jpeg_quality: lowest and highest quality of the JPEG, both included.
        jpeg_prob: probability of a JPEG; other images stay uncompressed.
        chroma_420_prob: probability that the JPEG has colour in half the resolution (4:2:0); the others have 4:4:4.
        seed: of crops, flips, rotations and degradations.

    Raises:
        FileNotFoundError: when a folder, an LMDB or an image is missing.
        ValueError: when an argument is out of range, or images are damaged or too small.
    """

    def __init__(
        self,
        *,
        dataroot_gt: str,
        meta_info_file: str | None = None,
        io_backend: dict | None = None,
        scale: Scale = 4,
        phase: str = "train",
        gt_size: Pixels | None = None,
        use_hflip: bool = True,
        use_rot: bool = True,
        color: Literal["y"] | None = None,
        mean: Sequence[PixelMean] | None = None,
        std: Sequence[PixelDeviation] | None = None,
        cache_mb: Megabytes = 2048,
        blur_sigma: tuple[BlurSigma, BlurSigma] = (0, 0.8),
        blur_prob: Probability = 0.5,
        kernels: Sequence[Literal["bicubic", "area", "bilinear", "lanczos"]] = (
            "bicubic",
            "area",
            "bilinear",
            "lanczos",
        ),
        noise_sigma: tuple[NoiseSigma, NoiseSigma] = (0, 3),
        noise_prob: Probability = 0.5,
        luma_noise_prob: Probability = 0.5,
        jpeg_quality: tuple[Quality, Quality] = (40, 98),
        jpeg_prob: Probability = 0.9,
        chroma_420_prob: Probability = 0.7,
        seed: Seed = 0,
    ) -> None:
        self.degradation = PhotoDegradation(
            blur_sigma=blur_sigma,
            blur_prob=blur_prob,
            kernels=kernels,
            noise_sigma=noise_sigma,
            noise_prob=noise_prob,
            luma_noise_prob=luma_noise_prob,
            jpeg_quality=jpeg_quality,
            jpeg_prob=jpeg_prob,
            chroma_420_prob=chroma_420_prob,
        )
        super().__init__(
            dataroot_gt=dataroot_gt,
            meta_info_file=meta_info_file,
            io_backend=io_backend,
            scale=scale,
            phase=phase,
            gt_size=gt_size,
            use_hflip=use_hflip,
            use_rot=use_rot,
            color=color,
            mean=mean,
            std=std,
            cache_mb=cache_mb,
            seed=seed,
        )

    def __getitem__(self, key: int | SampleIndex) -> dict[str, Any]:
        """Return the sample of `key`; in training a plain integer means epoch 0."""
        position, window, orientation = self.draw(key)
        height, width = self.lq_sizes[position]
        gt = Window(0, 0, height, width).crop(self._images[position], self.scale)
        gt, window = orientation.apply(gt), orientation.moved(window, height, width)
        path = str(self.gt_paths[position])
        return {
            "lq": self.to_input(self._degraded(gt, window, self._degradation_rng(key))),
            "gt": self.to_input(window.crop(gt, self.scale)),
            "lq_path": path,
            "gt_path": path,
        }

    def read_pair(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a whole image as validation degrades it, and its ground truth, (H, W, 3), read without the cache."""
        gt = self._images.images[position].read()
        height, width = self.lq_sizes[position]
        rng = self._degradation_rng(SampleIndex(0, position))
        return self._degraded(gt, Window(0, 0, height, width), rng), gt

    def _degraded(self, gt: np.ndarray, window: Window, rng: np.random.Generator) -> np.ndarray:
        """Return the part in `window`, in low-resolution pixels, of the degraded image of `gt`."""
        drawn = self.degradation.draw(rng)
        larger = with_jpeg_margin(window, gt.shape[0] // self.scale, gt.shape[1] // self.scale, rng)
        small = drawn.with_noise_and_jpeg(drawn.downscaled(gt, larger, self.scale), rng)
        return window._replace(top=window.top - larger.top, left=window.left - larger.left).crop(small)

    def _degradation_rng(self, key: int | SampleIndex) -> np.random.Generator:
        sample, _ = locate(key, len(self))
        epoch = sample.epoch if self.is_train else 0
        return np.random.default_rng([self.seed, epoch, sample.index, DEGRADATION_STREAM])
