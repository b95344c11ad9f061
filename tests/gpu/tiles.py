"""Validation of an image too large for memory."""

import logging
import re

import pytest
import torch
from gpu.training import catanet, with_device
from helpers import resolved_options

from basicsr.models import build_model

SIDE = 512  # px of the image
METRICS = {"psnr": {"type": "calculate_psnr_pt", "crop_border": 2}}


def build_model_on(folder, device):
    torch.manual_seed(0)
    return build_model(resolved_options(folder, {**with_device(device, catanet(folder)), "val": {"metrics": METRICS}}))


def check_validation_in_tiles(model, limit, caplog):
    """Check that the context `limit` makes validation use tiles, with nearly the same score."""
    generator = torch.Generator().manual_seed(0)
    lq, gt = (torch.rand(1, 3, side, side, generator=generator) for side in (SIDE, 2 * SIDE))
    batch = {"lq": lq, "gt": gt, "lq_path": ["a.png"], "gt_path": ["a.png"]}
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.INFO, "basicsr"):
        patch.setattr(logging.getLogger("basicsr"), "propagate", True)
        whole = model.validation([batch]).mean()["psnr"]
        assert "tiles" not in caplog.text
        with limit:
            tiled = model.validation([batch]).mean()["psnr"]
    side = int(re.search(r"doing it in tiles of (\d+) px", caplog.text)[1])
    assert 64 <= side < SIDE
    assert tiled == pytest.approx(whole, abs=0.1)
