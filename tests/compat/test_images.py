"""BGR images and filters that plug-ins written for BasicSR 1.4 import."""

import inspect

import cv2
import numpy as np
import pytest
import torch

from basicsr.compat.file_client import FileClient
from basicsr.compat.images import bgr2ycbcr, crop_border, imfrombytes, img2tensor, imwrite, tensor2img, ycbcr2bgr
from basicsr.compat.metrics import adapt_metric, reorder_image, to_y_channel
from basicsr.compat.plugins import attach
from basicsr.config.registry import METRIC_REGISTRY
from basicsr.images.channel_order import BGRImage
from basicsr.images.color import rgb2ycbcr, rgb_to_y
from basicsr.images.files import read_image
from basicsr.images.filters import USMSharp, filter2D, usm_sharp
from basicsr.metrics import calculate_metric
from basicsr.metrics.evaluate import evaluate
from basicsr.metrics.psnr_ssim import calculate_psnr


def test_tensors_become_bgr_pictures(tmp_path):
    x = torch.rand(1, 3, 5, 6)
    image = tensor2img([x])
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image[..., ::-1], (x[0].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8))
    np.testing.assert_array_equal(tensor2img(x, rgb2bgr=False), image[..., ::-1])
    assert [one.shape for one in tensor2img([x, x[:, :1]])] == [(5, 6, 3), (5, 6)]
    assert tensor2img(2 * x - 1, min_max=(-1, 1)).tolist() == image.tolist()
    floats = tensor2img(x, out_type=np.float32)
    np.testing.assert_allclose(floats, x[0].permute(1, 2, 0).numpy()[..., ::-1])
    torch.testing.assert_close(img2tensor(floats), x[0])
    assert tensor2img(torch.rand(4, 3, 5, 6)).shape == (16, 18, 3)  # 2 x 2, a gap of 2
    with pytest.raises(TypeError, match="tensor or list of tensors expected"):
        tensor2img(np.zeros(3))
    imwrite(image, str(tmp_path / "a" / "b.png"))
    np.testing.assert_array_equal(read_image(tmp_path / "a" / "b.png"), image[..., ::-1])
    content = FileClient("disk").get(tmp_path / "a" / "b.png")
    np.testing.assert_array_equal(imfrombytes(content), image)
    np.testing.assert_allclose(imfrombytes(content, "grayscale", float32=True).shape, (5, 6))
    with pytest.raises(ValueError, match="cannot be decoded"):
        imfrombytes(b"nothing")


def test_grids_are_those_of_torchvision():
    make_grid = pytest.importorskip("torchvision.utils").make_grid
    x = torch.rand(5, 3, 4, 6)
    expected = make_grid(x, nrow=2, normalize=False).permute(1, 2, 0).numpy()[..., ::-1]
    np.testing.assert_allclose(tensor2img(x, out_type=np.float32), expected)


def test_luma_is_right_in_either_order(photos):
    """A plug-in gives BGR to the metrics; the score is that of the same pictures in RGB."""
    rgb = read_image(photos / "coffee.png")
    noisy = rgb.copy()
    noisy[..., 0] //= 2  # red alone: swapped channels would give another luma
    spec = {"type": "calculate_psnr", "crop_border": 4, "test_y_channel": True}
    expected = calculate_psnr(rgb, noisy, crop_border=4, test_y_channel=True)
    bgr = [tensor2img(img2tensor(image / 255, bgr2rgb=False)) for image in (rgb, noisy)]
    assert all(isinstance(image, BGRImage) for image in bgr)
    assert calculate_metric({"img": bgr[0], "img2": bgr[1]}, spec) == pytest.approx(expected, abs=1e-9)
    assert calculate_psnr(bgr[0][4:-4], bgr[1][4:-4], 0, "HWC", True) == pytest.approx(
        calculate_psnr(rgb[4:-4], noisy[4:-4], 0, "HWC", True), abs=1e-9
    )
    flipped = [image[..., ::-1] for image in bgr]  # RGB again
    assert calculate_psnr(flipped[0], flipped[1], 4, "HWC", True) == pytest.approx(expected, abs=1e-9)
    assert abs(calculate_psnr(np.array(bgr[0]), np.array(bgr[1]), 4, "HWC", True) - expected) > 1
    y = to_y_channel(bgr[0])
    np.testing.assert_allclose(y, 255 * rgb_to_y(rgb / 255), atol=1e-3)
    assert reorder_image(np.zeros((3, 4, 5)), "CHW").shape == (4, 5, 3)


def test_metrics_of_plug_ins_get_bgr(monkeypatch):
    def metric(img, img2, crop_border=0):
        assert img.dtype == np.uint8
        return float(img[0, 0, 0]) + crop_border  # blue

    def own(img, img2):
        return img

    own.protocol = "float"
    assert adapt_metric(own) is own
    adapted = adapt_metric(metric)
    assert list(inspect.signature(adapted).parameters) == ["img", "img2", "crop_border"]
    sr = torch.tensor([1.0, 0.0, 0.2]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    batch = {"lq": sr, "gt": sr, "lq_path": ["a.png"]}
    attach()
    monkeypatch.setattr(METRIC_REGISTRY, "_items", {**METRIC_REGISTRY._items, "plug_in": metric})
    spec = {"type": "plug_in", "crop_border": 1}
    assert evaluate(lambda lq: lq, [batch], {"blue": spec}, "Toy").mean() == {"blue": 52}


def test_crop_border():
    image = np.arange(600).reshape(20, 30)
    np.testing.assert_array_equal(crop_border(image, 0), image)
    np.testing.assert_array_equal(crop_border([image], 4)[0], image[4:-4, 4:-4])
    for border in (-1, 10):
        with pytest.raises(ValueError, match=f"cannot take {border} pixels off each side of an image of 20x30"):
            crop_border(image, border)


def test_colours_of_bgr():
    image = np.random.default_rng(0).random((4, 5, 3))
    np.testing.assert_array_equal(bgr2ycbcr(image[..., ::-1]), rgb2ycbcr(image))
    np.testing.assert_array_equal(bgr2ycbcr(image[..., ::-1], y_only=True), rgb_to_y(image)[..., 0])
    np.testing.assert_allclose(ycbcr2bgr(bgr2ycbcr(image)), image, atol=1e-12)


def test_filter2d():
    images, kernels = torch.rand(2, 3, 12, 15), torch.rand(2, 5, 5)
    for kernel in (kernels, kernels[:1]):
        out = filter2D(images, kernel)
        for b in range(2):
            one = images[b].permute(1, 2, 0).numpy()
            wanted = cv2.filter2D(one, -1, kernel[b % len(kernel)].numpy(), borderType=cv2.BORDER_REFLECT_101)
            np.testing.assert_allclose(out[b].permute(1, 2, 0), wanted, rtol=1e-4)
    with pytest.raises(ValueError, match="must be odd"):
        filter2D(images, torch.rand(1, 4, 4))


def test_unsharp_masking_sharpens_edges_alone(photos):
    image = read_image(photos / "coffee.png").astype(np.float32) / 255
    batch = img2tensor(image, bgr2rgb=False)[None]
    sharp = USMSharp(radius=20)(batch)
    wanted = usm_sharp(image, radius=20)
    np.testing.assert_allclose(sharp[0].permute(1, 2, 0), wanted, atol=1e-4)
    assert sharp.var() > batch.var()
    flat = torch.full((1, 3, 32, 32), 0.4)
    torch.testing.assert_close(USMSharp(radius=8)(flat), flat)
