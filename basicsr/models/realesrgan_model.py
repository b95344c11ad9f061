"""Real-ESRGAN: batches of ground truth are degraded on the device, then trained on, with or without a discriminator.

Source: Wang et al., Real-ESRGAN, ICCVW 2021.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from basicsr.config.degradation import DegradationOptions
from basicsr.config.registry import MODEL_REGISTRY
from basicsr.config.schema import Options
from basicsr.data.second_order import PairPool, SecondOrderDegradation
from basicsr.engine.distributed import gather_objects, get_dist_info
from basicsr.images.filters import USMSharp
from basicsr.models.base_model import BaseModel
from basicsr.models.sr_model import SRModel, loss_name
from basicsr.models.srgan_model import SRGANModel

KERNELS = ("kernel1", "kernel2", "sinc_kernel")


class DegradingModel(BaseModel):
    """A model whose training batches are `{gt, kernel1, kernel2, sinc_kernel}`, or pairs; see `DegradationOptions`.

    What it trains on is `{lq, gt, gt_usm}`. The pool of pairs is part of the training state of every process.
    """

    degrades_batches = True
    extra_options = frozenset({"degradation"})

    def __init__(self, opt: Options):
        self.degradation_options = opt.degradation or DegradationOptions()
        super().__init__(opt)
        if not self.is_train:
            return
        options, size = self.degradation_options, opt.datasets["train"].batch_size_per_gpu
        where = opt.where / "degradation"
        if options.gt_size % opt.scale:
            raise (where / "gt_size").error(f"must be a multiple of scale ({opt.scale}), got {options.gt_size}")
        if options.queue_size % size:
            raise (where / "queue_size").error(
                f"must be a multiple of batch_size_per_gpu ({size}), got {options.queue_size}"
            )
        self.degrade = SecondOrderDegradation(options, opt.scale).to(self.device)
        self.sharpen = USMSharp().to(self.device)
        self.pool = PairPool(options.queue_size)

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Move a batch to the device; one of kernels is degraded there, cropped and exchanged with the pool."""
        super().feed_data(data)
        if self.is_train:
            self.batch = self.degraded_batch(self.batch)

    @torch.no_grad()
    def degraded_batch(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the batch with `lq` and `gt_usm`, the sharpened ground truth, and without kernels."""
        rest = {key: value for key, value in batch.items() if key not in KERNELS}
        if "kernel1" not in batch:
            return {**rest, "gt_usm": self.sharpen(batch["gt"])}
        gt = batch["gt"]
        source = self.sharpen(gt) if self.degradation_options.gt_usm else gt
        lq, gt = self._cropped(self.degrade(source, *(batch[key] for key in KERNELS)), gt)
        if self.pool.size:
            lq, gt = self.pool.exchange(lq, gt)
        return {**rest, "lq": lq, "gt": gt, "gt_usm": self.sharpen(gt)}

    def _cropped(self, lq: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same random window of all pairs, `gt_size` px of the ground truth a side."""
        scale = self.opt.scale
        side = self.degradation_options.gt_size // scale
        height, width = lq.shape[2:]
        if min(height, width) < side:
            raise ValueError(
                f"degradation.gt_size: is {side * scale}, but the data set gives {gt.shape[2]}x{gt.shape[3]} px; raise "
                "its crop_pad_size"
            )
        top, left = np.random.randint(height - side + 1), np.random.randint(width - side + 1)
        rows, columns = slice(top * scale, (top + side) * scale), slice(left * scale, (left + side) * scale)
        return lq[:, :, top : top + side, left : left + side].contiguous(), gt[:, :, rows, columns].contiguous()

    def extra_state(self) -> dict[str, Any]:
        """Return, besides the model's own state, the pools of all processes."""
        return {**super().extra_state(), "pair_pools": gather_objects(self.pool.state_dict())}

    def load_extra_state(self, state: Mapping[str, Any], current_iter: int) -> None:
        """Load the pool of this process."""
        super().load_extra_state(state, current_iter)
        pools, rank = state.get("pair_pools") or [], get_dist_info()[0]
        self.pool.load_state_dict(pools[rank] if rank < len(pools) else {}, self.device)


@MODEL_REGISTRY.register()
class RealESRNetModel(DegradingModel, SRModel):
    """`SRModel` on pairs that are degraded on the device; with `degradation.gt_usm` the target is sharpened.

    The first stage of Real-ESRGAN, without a discriminator.
    """

    def compute_losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return every loss between output and (sharpened) ground truth, under the name that is logged."""
        gt = batch["gt_usm" if self.degradation_options.gt_usm else "gt"]
        return self.losses_of(self.net_g(batch["lq"]), gt)


@MODEL_REGISTRY.register()
class RealESRGANModel(DegradingModel, SRGANModel):
    """`SRGANModel` on pairs that are degraded on the device; the targets are sharpened as `degradation` says."""

    def content_losses(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the losses of `train.*_opt`, each with its own ground truth."""
        options = self.degradation_options
        sharpened = {"pixel_opt": options.l1_gt_usm, "perceptual_opt": options.percep_gt_usm}
        return {
            f"l_g_{loss_name(key).removeprefix('l_')}": self.loss_of(
                key, output, batch["gt_usm" if sharpened.get(key, False) else "gt"]
            )
            for key in self.losses
        }

    def real_images(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the ground truth, sharpened with `degradation.gan_gt_usm`."""
        return batch["gt_usm" if self.degradation_options.gan_gt_usm else "gt"]
