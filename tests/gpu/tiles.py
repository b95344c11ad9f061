"""Validation of one image for which memory does not suffice."""

import logging
import re

import pytest
import torch
from gpu.training import catanet, model_options, on

from basicsr.models import build_model

SIDE = 512  # px of the image
METRICS = {"psnr": {"type": "calculate_psnr_pt", "crop_border": 2}}


def model_on(folder, device):
    torch.manual_seed(0)
    return build_model(model_options(folder, {**on(device, catanet(folder)), "val": {"metrics": METRICS}}))


def ends_in_tiles(model, limit, caplog):
    """Score an image with and without the context `limit`; with it in tiles, which change the score a little."""
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
