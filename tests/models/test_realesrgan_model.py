"""Real-ESRGAN: kernels, degradation on the device, the pool of pairs, targets, going on, option files."""

import numpy as np
import pytest
import torch
import yaml
from helpers import resolved_options
from models.test_srgan_model import GAN, GENERATOR, train
from reliability.runs import merged, options
from torch.nn import functional as F

from basicsr.config.degradation import DegradationOptions
from basicsr.config.load import load_options
from basicsr.data import build_dataset
from basicsr.data.data_sampler import SampleIndex
from basicsr.data.realesrgan_dataset import RealESRGANDataset
from basicsr.data.second_order import PairPool, SecondOrderDegradation
from basicsr.engine.random_state import seed_everything
from basicsr.errors import OptionError
from basicsr.images.files import write_image
from basicsr.images.filters import USMSharp
from basicsr.models import build_model

KERNELS = ("kernel1", "kernel2", "sinc_kernel")
MINIATURE = {  # no resizing below the reach of the kernels
    "resize_range": [0.5, 1.5], "resize_range2": [0.6, 1.2], "gt_size": 32, "queue_size": 4,
}  # fmt: skip


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(5):
        picture = rng.integers(0, 256, (12, 10, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        write_image(tmp_path / "images" / f"{k}.png", picture)
    return tmp_path / "images"


def dataset(images, **more):
    return RealESRGANDataset(
        dataroot_gt=str(images), blur_kernel_size=7, blur_kernel_size2=7, crop_pad_size=64, seed=3, **more
    )


def real_options(folder, model_type="RealESRGANModel", **changes):
    base = merged({}, GAN) if model_type == "RealESRGANModel" else {"train": {"ema_decay": 0.9}}
    values = options(folder, **merged(base, {"degradation": MINIATURE, **changes}))
    values |= {"model_type": model_type, "network_g": GENERATOR}
    values["datasets"]["train"] = {
        "name": "Images", "type": "RealESRGANDataset", "dataroot_gt": str(folder / "images"), "blur_kernel_size": 7,
        "blur_kernel_size2": 7, "crop_pad_size": 64, "batch_size_per_gpu": 2,
    }  # fmt: skip
    return values


@pytest.fixture
def model(images, tmp_path):
    def model(model_type="RealESRGANModel", **changes):
        torch.manual_seed(0)
        return build_model(resolved_options(tmp_path, real_options(tmp_path, model_type, **changes)))

    return model


def batch_of(data, count=2):
    samples = [data[SampleIndex(1, k)] for k in range(count)]
    return {k: torch.stack([s[k] for s in samples]) for k in ("gt", *KERNELS)} | {"gt_path": ["a"] * count}


# Data


def test_samples_are_crops_with_filters_and_follow_from_seed_epoch_and_index(images):
    data = dataset(images)
    sample, again, other = data[SampleIndex(1, 2)], data[SampleIndex(1, 2)], data[SampleIndex(2, 2)]
    assert sample["gt"].shape == (3, 64, 64)
    assert sample["gt_path"].endswith("2.png")
    for name in KERNELS:
        assert sample[name].shape == (7, 7)
        assert sample[name].sum().item() == pytest.approx(1, abs=1e-5)
    assert all(torch.equal(sample[name], again[name]) for name in ("gt", *KERNELS))
    assert not all(torch.equal(sample[name], other[name]) for name in KERNELS)
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    data[SampleIndex(0, 0)]
    assert torch.equal(torch.get_rng_state(), state[0]) and (np.random.get_state()[1] == state[1]).all()


def test_small_images_are_mirrored_and_pulses_change_nothing(images):
    data = dataset(images, final_sinc_prob=0)
    data.crop_pad_size = 120
    sample = data[SampleIndex(0, 0)]
    assert sample["gt"].shape == (3, 120, 120)
    pulse = torch.zeros(7, 7)
    pulse[3, 3] = 1
    assert torch.equal(sample["sinc_kernel"], pulse)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phase": "val"}, "phase: RealESRGANDataset is for training, not val; use PairedImageDataset"),
        ({"kernel_list2": ["round"], "kernel_prob2": [1]}, r"kernel_list2: must be some of iso.* got \['round'\]"),
        ({"kernel_prob": [1, 2]}, "kernel_prob: needs one weight"),
        ({"blur_sigma2": (2, 1)}, "blur_sigma2: must be"),
        ({"sinc_prob": 2}, "sinc_prob: must be a probability"),
        ({"final_sinc_prob": -1}, "final_sinc_prob: must be a probability"),
    ],
)
def test_bad_arguments_of_the_data_set_are_named(change, message, images):
    with pytest.raises(ValueError, match=message):
        dataset(images, **change)
    for size in (6, 5):
        with pytest.raises(ValueError, match="blur_kernel_size: must be odd and at least 7"):
            RealESRGANDataset(dataroot_gt=str(images), blur_kernel_size=size, blur_kernel_size2=size)


def test_pairs_from_files(images):
    data = build_dataset(
        {"type": "RealESRGANPairedDataset", "dataroot_gt": str(images), "gt_size": 32}, scale=2, phase="train"
    )
    assert data[0]["lq"].shape == (3, 16, 16) and data[0]["gt"].shape == (3, 32, 32)


# Degradation


def gentle(**more):
    """Options under which the degradation is a plain resizing."""
    values = dict.fromkeys(("gaussian_noise_prob", "gaussian_noise_prob2"), 1.0)
    values |= dict.fromkeys(("noise_range", "noise_range2"), (0.0, 0.0)) | {"second_blur_prob": 0.0}
    values |= dict.fromkeys(("jpeg_range", "jpeg_range2"), (100.0, 100.0))
    values |= dict.fromkeys(("resize_prob", "resize_prob2"), (0.0, 0.0, 1.0))
    return DegradationOptions(**(values | more))


def test_without_its_faults_a_degradation_is_a_resizing():
    gray = torch.rand(2, 1, 3, 3).expand(-1, 3, -1, -1)  # JPEG halves the resolution of colours
    smooth = F.interpolate(gray, size=(48, 48), mode="bicubic").clamp(0, 1)
    pulse = torch.zeros(2, 7, 7)
    pulse[:, 3, 3] = 1
    torch.manual_seed(0)
    lq = SecondOrderDegradation(gentle(), scale=4)(smooth, pulse, pulse, pulse)
    assert lq.shape == (2, 3, 12, 12)
    assert (lq - F.interpolate(smooth, size=(12, 12), mode="area")).abs().mean() < 0.02
    torch.testing.assert_close(lq * 255, (lq * 255).round())


@pytest.mark.parametrize(
    "change",
    [
        {"noise_range": (30.0, 30.0)},
        {"noise_range2": (30.0, 30.0)},
        {"gaussian_noise_prob": 0.0, "poisson_scale_range": (3.0, 3.0)},
        {"jpeg_range": (5.0, 5.0)},
        {"jpeg_range2": (5.0, 5.0)},
    ],
)
def test_each_fault_changes_the_image(change):
    gt = F.interpolate(torch.rand(2, 3, 6, 6), size=(64, 64), mode="bicubic").clamp(0, 1)
    pulse = torch.zeros(2, 7, 7)
    pulse[:, 3, 3] = 1
    found = []
    for ranges in (gentle(), gentle(**change)):
        seed_everything(5)
        found.append(SecondOrderDegradation(ranges, scale=2)(gt, pulse, pulse, pulse))
    assert (found[0] - found[1]).abs().mean() > 0.01
    assert found[1].min() >= 0 and found[1].max() <= 1


def test_a_degradation_follows_from_the_generators(images):
    batch = batch_of(dataset(images))
    degrade = SecondOrderDegradation(DegradationOptions(resize_range=(0.5, 1.5)), scale=2)
    found = []
    for seed in (1, 1, 2):
        seed_everything(seed)
        found.append(degrade(batch["gt"], *(batch[name] for name in KERNELS)))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resize_prob": (0, 0, 0)}, "resize_prob: must be three weights"),
        ({"noise_range2": (5, 1)}, r"noise_range2: must be \[lowest, highest\]"),
        ({"jpeg_range": (80, 50)}, r"jpeg_range: must be \[lowest, highest\]"),
    ],
)
def test_bad_options_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        DegradationOptions(**change)


# Pool


def pairs(number, start=0):
    values = torch.arange(start, start + number, dtype=torch.float32).view(-1, 1, 1, 1) / 255
    return values.expand(-1, 3, 2, 2).clone(), values.expand(-1, 3, 4, 4).clone()


def test_a_pool_gives_every_pair_once_and_keeps_them_together():
    torch.manual_seed(0)
    pool, given = PairPool(4), []
    for k in range(10):
        lq, gt = pool.exchange(*pairs(2, 2 * k))
        if k < 2:
            assert torch.equal(lq, pairs(2, 2 * k)[0])  # it fills up
        else:
            given += (gt[:, 0, 0, 0] * 255).int().tolist()
        assert torch.equal(lq[:, 0, 0, 0], gt[:, 0, 0, 0])
    left = (pool.gt[:, 0, 0, 0] * 255).int().tolist()
    assert sorted(given + left) == list(range(20))
    with pytest.raises(ValueError, match=r"queue_size: must be a multiple of the batch \(3\), got 4"):
        pool.exchange(*pairs(3))


@pytest.mark.parametrize("offset", [0, 1e-4])
def test_the_state_of_a_pool_holds_its_pairs_exactly(offset):
    pool, again = PairPool(4), PairPool(4)
    lq, gt = pairs(2, 7)
    pool.exchange(lq, gt + offset)
    state = pool.state_dict()
    assert state["lq"].dtype == torch.uint8
    assert state["gt"].dtype == (torch.float32 if offset else torch.uint8)
    again.load_state_dict(state, torch.device("cpu"))
    assert again.filled == 2
    assert torch.equal(again.lq[:2], lq) and torch.equal(again.gt[:2], gt + offset)
    again.load_state_dict({}, torch.device("cpu"))
    assert again.filled == 0 and again.state_dict() == {}


# Models


def test_a_batch_is_degraded_cropped_and_sharpened(model, images):
    real = model()
    real.feed_data(batch_of(dataset(images)))
    batch = real.batch
    assert set(batch) == {"lq", "gt", "gt_usm", "gt_path"}
    assert batch["lq"].shape == (2, 3, 16, 16) and batch["gt"].shape == (2, 3, 32, 32)
    torch.testing.assert_close(batch["gt_usm"], USMSharp()(batch["gt"]))
    enlarged = F.interpolate(batch["lq"], scale_factor=2)
    assert (enlarged - batch["gt"]).abs().mean() < (enlarged.roll(8, 2) - batch["gt"]).abs().mean()


def test_pairs_are_trained_on_as_they_are(model):
    real = model("RealESRNetModel")
    lq, gt = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 32, 32)
    real.feed_data({"lq": lq, "gt": gt})
    assert torch.equal(real.batch["lq"], lq) and torch.equal(real.batch["gt"], gt)


@pytest.mark.parametrize("sharp", [True, False])
def test_targets(model, sharp):
    options = {"gt_usm": sharp, "l1_gt_usm": sharp, "gan_gt_usm": sharp}
    batch = {"lq": torch.rand(2, 3, 16, 16), "gt": torch.rand(2, 3, 32, 32), "gt_usm": torch.rand(2, 3, 32, 32)}
    target = batch["gt_usm" if sharp else "gt"]
    net = model("RealESRNetModel", degradation=MINIATURE | options)
    output = net.net_g(batch["lq"])
    torch.testing.assert_close(net.compute_losses(batch)["l_pix"], (output - target).abs().mean())
    gan = model(degradation=MINIATURE | options)
    gan.iteration = 1
    assert torch.equal(gan.real_images(batch), target)
    torch.testing.assert_close(gan.compute_losses(batch)["l_g_pix"], (gan.net_g(batch["lq"]) - target).abs().mean())


@pytest.mark.parametrize("model_type", ["RealESRNetModel", "RealESRGANModel"])
def test_going_on_ends_bit_for_bit_the_same(model_type, images, tmp_path):
    values = real_options(tmp_path, model_type, logger={"save_checkpoint_freq": 3})
    whole = train(tmp_path, {**values, "name": "whole"})
    train(tmp_path, {**values, "name": "half", "train": {**values["train"], "total_iter": 3}})
    again = train(tmp_path, {**values, "name": "half"}, "--auto_resume")
    for name in [name for name in whole if name.endswith("_6.pth")]:
        for key in set(whole[name]) & {"params", "params_ema"}:
            torch.testing.assert_close(again[name][key], whole[name][key], rtol=0, atol=0)


def test_sizes_that_do_not_fit_are_named(model, images):
    with pytest.raises(OptionError, match=r"degradation\.queue_size: must be a multiple of batch_size_per_gpu \(2\)"):
        model(degradation={"queue_size": 3})
    with pytest.raises(OptionError, match=r"degradation\.gt_size: must be a multiple of scale \(2\), got 31"):
        model(degradation={"gt_size": 31})
    real = model(degradation=MINIATURE | {"gt_size": 128})
    with pytest.raises(ValueError, match=r"gt_size: is 128, but the data set gives 64x64 px; raise its crop_pad_size"):
        real.feed_data(batch_of(dataset(images)))


def test_other_models_do_not_read_the_section(images, tmp_path):
    values = real_options(tmp_path, "RealESRNetModel") | {"model_type": "SRModel"}
    with pytest.raises(OptionError, match=r"degradation: is read by RealESRNetModel and .*, not by SRModel"):
        build_model(resolved_options(tmp_path, values))


def test_the_keys_may_stand_at_the_top_level_as_in_files_of_real_esrgan(images, tmp_path):
    values = real_options(tmp_path)
    flat = values.pop("degradation") | {"l1_gt_usm": False}
    path = tmp_path / "run.yml"
    path.write_text(yaml.safe_dump(values | flat, sort_keys=False))
    degradation = load_options(path, is_train=True).degradation
    assert (degradation.resize_range, degradation.queue_size, degradation.l1_gt_usm) == ((0.5, 1.5), 4, False)
    path.write_text(yaml.safe_dump(values | flat | {"jpeg_range": [30, 200]}, sort_keys=False))
    with pytest.raises(OptionError, match=r"run\.yml:\d+: degradation\.jpeg_range\[1\]: must be"):
        load_options(path, is_train=True)
