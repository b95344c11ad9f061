"""Suggestions for unknown names: of a slip the name that is meant, of another thing what it is, and no guess."""

import pytest

from basicsr.config.known_names import describe_known_name
from basicsr.config.registry import ARCH_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY
from basicsr.config.similar import similar_names
from basicsr.errors import UnknownNameError


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SRModle", "SRModel"),
        ("CATANET-S", "CATANet-S"),
        ("ema_decya", "ema_decay"),
        ("loss_wieght", "loss_weight"),
        ("totl_iter", "total_iter"),
        ("block_nums", "block_num"),
        ("lrr", "lr"),
        ("psnr", "calculate_psnr"),
        ("PairedImage", "PairedImageDataset"),
    ],
)
def test_a_slip_is_recognised(name, meant):
    others = ["ATDModel", "CATANet-XS", "ema", "loss", "warmup_iter", "betas", "calculate_ssim", "SingleImageDataset"]
    assert similar_names(name, [*others, meant]) == [meant]


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("HAT", "ATD"),
        ("DAT", "ATD"),
        ("MDSR", "EDSR"),
        ("calculate_lpips", "calculate_psnr"),
        ("pretrain_network_d", "pretrain_network_t"),
        ("strict_load_d", "strict_load_g"),
        ("dataroot_lq", "dataroot_gt"),
        ("SwinIRModel", "SRModel"),
    ],
)
def test_another_thing_is_not_taken_for_a_slip(name, other):
    assert similar_names(name, [other]) == []


def test_a_part_of_a_key_may_be_another_key():
    assert similar_names("batch_size", ["batch_size_per_gpu"]) == ["batch_size_per_gpu"]
    assert similar_names("batch_size", ["batch_size_per_gpu"], parts=False) == []


@pytest.mark.parametrize(
    ("registry", "name", "facts"),
    [
        (ARCH_REGISTRY, "HAT", ("github.com/XPixelGroup/HAT", "CVPR 2023", "plug-in")),
        (ARCH_REGISTRY, "Restormer", ("github.com/swz30/Restormer",)),
        (ARCH_REGISTRY, "EDVR", ("BasicSR 1.4", "video")),
        (MODEL_REGISTRY, "VideoRecurrentModel", ("BasicSR 1.4",)),
        (METRIC_REGISTRY, "calculate_lpips", ("LPIPS", "pyiqa")),
        (METRIC_REGISTRY, "calculate_fid", ("sets of images", "basicsr.metrics.fid")),
        (LOSS_REGISTRY, "L2Loss", ("MSELoss",)),
    ],
)
def test_a_well_known_name_is_explained(registry, name, facts):
    with pytest.raises(UnknownNameError) as error:
        registry.get(name)
    message = str(error.value)
    assert message.startswith(f"no {registry.kind} is called {name!r}; ")
    assert [fact for fact in facts if fact not in message] == []
    assert "did you mean" not in message and "\n" not in message


def test_names_that_are_here_are_not_explained_as_missing():
    for registry in (ARCH_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY):
        assert [name for name, _ in registry if describe_known_name(name)] == []
    assert describe_known_name("Anything") == ""
