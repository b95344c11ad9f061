import cv2
import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from basicsr.metrics import both_protocols, calculate_metric, describe, direction
from basicsr.metrics.psnr_ssim import calculate_psnr, calculate_psnr_pt, calculate_ssim, calculate_ssim_pt

SET5_BICUBIC_X4 = {"baby": 31.8, "bird": 30.2, "butterfly": 22.1, "head": 31.6, "woman": 26.5}  # dB on Y, +- 0.5


def direct_ssim(x, y):
    """Return SSIM of two planes by the definition: weighted sums over every 11x11 window, no separable filters."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    x, y = (sliding_window_view(plane.astype(np.float64), (11, 11)) for plane in (x, y))
    mean_x, mean_y = ((weights * windows).sum((-2, -1)) for windows in (x, y))
    dx, dy = x - mean_x[..., None, None], y - mean_y[..., None, None]
    c1, c2 = 6.5025, 58.5225
    numerator = (2 * mean_x * mean_y + c1) * (2 * (weights * dx * dy).sum((-2, -1)) + c2)
    spread = (weights * dx**2).sum((-2, -1)) + (weights * dy**2).sum((-2, -1))
    return float((numerator / ((mean_x**2 + mean_y**2 + c1) * (spread + c2))).mean())


def luma(image):
    return 16 + image.astype(np.float64) @ (np.array([65.481, 128.553, 24.966]) / 255)


def to_batch(*images):
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).double() / 255


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (40, 52, 3), dtype=np.uint8), (5, 5), 1)
    noisy = np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
    return image, noisy


def test_psnr_of_a_known_error():
    black, one = np.zeros((4, 4, 3), np.uint8), np.ones((4, 4, 3), np.uint8)
    assert calculate_psnr(black, one, crop_border=0) == pytest.approx(20 * np.log10(255))
    published = -10 * np.log10(1 / 255**2 + 1e-8)
    assert calculate_psnr_pt(to_batch(black), to_batch(one), crop_border=0).item() == pytest.approx(published)


def test_y_channel_weighs_colours():
    red, black = np.zeros((2, 4, 4, 3), np.uint8)
    red[..., 0] = 255
    expected = 20 * np.log10(255 / 65.481)
    assert calculate_psnr(red, black, crop_border=0, test_y_channel=True) == pytest.approx(expected)
    pt = calculate_psnr_pt(to_batch(red), to_batch(black), crop_border=0, test_y_channel=True)
    assert pt.item() == pytest.approx(expected, abs=1e-5)


def test_border_is_not_scored(pair):
    image, _ = pair
    changed = image.copy()
    changed[:4], changed[-4:], changed[:, :4], changed[:, -4:] = 0, 0, 0, 0
    assert calculate_psnr(image, changed, crop_border=4) == float("inf")
    assert calculate_psnr(image, changed, crop_border=3) < 60
    assert calculate_psnr_pt(to_batch(image), to_batch(changed), crop_border=4).item() == pytest.approx(80)


@pytest.mark.parametrize("metric", [calculate_ssim, calculate_ssim_pt])
def test_ssim_of_equal_images_is_one(metric, pair):
    image = pair[0] if metric is calculate_ssim else to_batch(pair[0])
    assert float(metric(image, image, crop_border=2)) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("test_y_channel", [False, True])
def test_ssim_equals_the_formula(pair, test_y_channel):
    image, noisy = (i[3:-3, 3:-3] for i in pair)
    if test_y_channel:
        expected = direct_ssim(luma(image), luma(noisy))
    else:
        expected = np.mean([direct_ssim(image[..., c], noisy[..., c]) for c in range(3)])
    options = {"crop_border": 3, "test_y_channel": test_y_channel}
    assert calculate_ssim(*pair, **options) == pytest.approx(expected, abs=1e-10)
    assert calculate_ssim_pt(*map(to_batch, pair), **options).item() == pytest.approx(expected, abs=1e-10)


def test_layouts_and_float_input_agree(pair):
    image, noisy = pair
    for metric in (calculate_psnr, calculate_ssim):
        expected = metric(image, noisy, crop_border=1)
        chw = metric(image.transpose(2, 0, 1), noisy.transpose(2, 0, 1), crop_border=1, input_order="CHW")
        assert chw == expected
        assert metric(image.astype(np.float32), noisy, crop_border=1) == expected
        gray = metric(image[..., 0], noisy[..., 0], crop_border=1, test_y_channel=True)
        assert gray == metric(image[..., :1], noisy[..., :1], crop_border=1)


def test_tensor_metrics_score_each_image_unclamped(pair):
    image, noisy = pair
    x, y = to_batch(image, noisy, image), to_batch(noisy, noisy, image)
    for metric in (calculate_psnr_pt, calculate_ssim_pt):
        assert metric(x, y, crop_border=0).shape == (3,)
        assert metric(x, y, crop_border=0)[0].item() == metric(x[:1], y[:1], crop_border=0).item()
    over = torch.full((1, 3, 4, 4), 1.1)
    assert calculate_psnr_pt(over, torch.ones_like(over), crop_border=0).item() == pytest.approx(20, abs=1e-4)


@pytest.mark.parametrize("metric", [calculate_psnr, calculate_ssim])
def test_array_metrics_raise_for_bad_input(metric, pair):
    image, _ = pair
    with pytest.raises(ValueError, match=r"differ in shape, got \(40, 52, 3\) and \(39, 52, 3\)"):
        metric(image, image[1:], crop_border=0)
    with pytest.raises(ValueError, match="crop_border must be >= 0 and leave pixels of a 40x52 image, got 20"):
        metric(image, image, crop_border=20)
    with pytest.raises(ValueError, match="crop_border"):
        metric(image, image, crop_border=-1)
    with pytest.raises(ValueError, match="axes"):
        metric(image[None], image[None], crop_border=0)
    with pytest.raises(ValueError, match="input_order"):
        metric(image, image, crop_border=0, input_order="CWH")
    with pytest.raises(TypeError, match="uint16"):
        metric(image.astype(np.uint16), image, crop_border=0)
    with pytest.raises(TypeError, match="_pt"):
        metric(torch.zeros(3, 40, 40), torch.zeros(3, 40, 40), crop_border=0)


@pytest.mark.parametrize("metric", [calculate_psnr_pt, calculate_ssim_pt])
def test_tensor_metrics_raise_for_bad_input(metric, pair):
    batch = to_batch(pair[0])
    with pytest.raises(ValueError, match="differ in shape"):
        metric(batch, batch[:, :, 1:], crop_border=0)
    with pytest.raises(ValueError, match="crop_border"):
        metric(batch, batch, crop_border=20)
    with pytest.raises(ValueError, match="4 axes"):
        metric(batch[0], batch[0], crop_border=0)
    with pytest.raises(TypeError, match=r"torch\.uint8"):
        metric(batch.byte(), batch.byte(), crop_border=0)
    with pytest.raises(TypeError, match="float tensors"):
        metric(pair[0], pair[0], crop_border=0)


def test_ssim_needs_a_whole_window(pair):
    image = pair[0][:18]
    assert calculate_ssim(image[:11], image[:11], crop_border=0) == pytest.approx(1)
    with pytest.raises(ValueError, match="at least 11x11 px after the crop, got 10x44"):
        calculate_ssim(image, image, crop_border=4)
    with pytest.raises(ValueError, match="at least 11x11 px after the crop, got 10x44"):
        calculate_ssim_pt(to_batch(image), to_batch(image), crop_border=4)


@pytest.mark.parametrize("name", sorted(SET5_BICUBIC_X4))
def test_set5_bicubic(shared, name):
    gt = cv2.imread(str(shared / f"data/Set5/HR/{name}.png"))[..., ::-1]
    lq = cv2.imread(str(shared / f"data/Set5/LR_bicubic/X4/{name}x4.png"))[..., ::-1]
    gt = np.ascontiguousarray(gt[: lq.shape[0] * 4, : lq.shape[1] * 4])
    sr = cv2.resize(lq, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    options = {"crop_border": 4, "test_y_channel": True}
    x, y = (luma(image)[4:-4, 4:-4] for image in (sr, gt))
    psnr = 10 * np.log10(255**2 / np.mean((x - y) ** 2))
    assert psnr == pytest.approx(SET5_BICUBIC_X4[name], abs=0.5)
    assert calculate_psnr(sr, gt, **options) == pytest.approx(psnr, abs=1e-9)
    assert calculate_psnr_pt(to_batch(sr), to_batch(gt), **options).item() == pytest.approx(psnr, abs=1e-4)
    sr, gt = sr[:128, :128], gt[:128, :128]  # all windows of a whole image would fill gigabytes
    ssim = direct_ssim(x[:120, :120], y[:120, :120])
    assert calculate_ssim(sr, gt, **options) == pytest.approx(ssim, abs=1e-9)
    assert calculate_ssim_pt(to_batch(sr), to_batch(gt), **options).item() == pytest.approx(ssim, abs=1e-9)


def test_calculate_metric_leaves_the_spec_alone(pair):
    spec = {"type": "calculate_psnr", "crop_border": 2, "better": "higher"}
    value = calculate_metric({"img": pair[0], "img2": pair[1]}, spec)
    assert value == calculate_psnr(*pair, crop_border=2)
    assert spec == {"type": "calculate_psnr", "crop_border": 2, "better": "higher"}


def test_direction():
    assert direction({"type": "calculate_psnr"}) == "higher"
    assert direction({"type": "calculate_psnr", "better": "lower"}) == "lower"
    with pytest.raises(ValueError, match="better: must be 'higher' or 'lower', got 'up'"):
        direction({"type": "calculate_psnr", "better": "up"})


def test_both_protocols_adds_the_twins():
    metrics = {
        "psnr": {"type": "calculate_psnr_pt", "crop_border": 4, "test_y_channel": True},
        "ssim": {"type": "calculate_ssim", "crop_border": 4},
    }
    both = both_protocols(metrics)
    assert list(both) == ["psnr", "psnr_uint8", "ssim", "ssim_float"]
    assert both["psnr_uint8"] == {**metrics["psnr"], "type": "calculate_psnr"}
    assert [describe(spec) for spec in both.values()] == [
        "float, Y, crop 4",
        "uint8, Y, crop 4",
        "uint8, RGB, crop 4",
        "float, RGB, crop 4",
    ]
    assert both_protocols(both) == both


def test_a_twin_of_tensors_has_no_order_of_axes():
    both = both_protocols({"psnr": {"type": "calculate_psnr", "crop_border": 2, "input_order": "HWC"}})
    assert both["psnr_float"] == {"type": "calculate_psnr_pt", "crop_border": 2}
    assert both["psnr"]["input_order"] == "HWC"
