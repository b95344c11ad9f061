"""Blur kernels, noise and JPEG against their formulas and against OpenCV."""

import math

import cv2
import numpy as np
import pytest
import torch

from basicsr.compat.images import img2tensor, tensor2img
from basicsr.images import blur_kernels, noise
from basicsr.images import diff_jpeg as jpeg
from basicsr.images.files import read_image
from basicsr.metrics.psnr_ssim import calculate_psnr


def test_gaussian_kernels():
    xx, yy = np.meshgrid(np.arange(-3, 4), np.arange(-3, 4))
    sigma = blur_kernels.sigma_matrix2(2, 1, math.pi / 2)
    np.testing.assert_allclose(sigma, [[1, 0], [0, 4]], atol=1e-12)
    expected = np.exp(-(xx**2 / 1 + yy**2 / 4) / 2)
    kernel = blur_kernels.bivariate_Gaussian(7, 2, 1, math.pi / 2, isotropic=False)
    np.testing.assert_allclose(kernel, expected / expected.sum(), rtol=1e-10)
    distance = (xx**2 + yy**2) / 1.5**2
    for kernel, shape in (
        (blur_kernels.bivariate_generalized_Gaussian(7, 1.5, 0, 0, 0.7), np.exp(-(distance**0.7) / 2)),
        (blur_kernels.bivariate_plateau(7, 1.5, 0, 0, 2), 1 / (1 + distance**2)),
    ):
        np.testing.assert_allclose(kernel, shape / shape.sum(), rtol=1e-10)


@pytest.mark.parametrize(
    "kind", ["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]
)
def test_mixed_kernels(kind):
    kernel = blur_kernels.random_mixed_kernels([kind], [1], 21, noise_range=[0.9, 1.1])
    assert kernel.shape == (21, 21)
    assert kernel.sum() == pytest.approx(1)
    if kind == "plateau_iso":  # no noise
        np.testing.assert_allclose(kernel, kernel.T)
    with pytest.raises(ValueError, match="odd"):
        blur_kernels.random_mixed_kernels([kind], [1], 20)
    with pytest.raises(ValueError, match="unknown kernel"):
        blur_kernels.random_mixed_kernels(["square"], [1])


def test_sinc():
    kernel = blur_kernels.circular_lowpass_kernel(math.pi / 2, 21, pad_to=25)
    assert kernel.shape == (25, 25)
    assert kernel.sum() == pytest.approx(1)
    assert (kernel[:2] == 0).all()
    # Below its cutoff a frequency passes, above it does not.
    wave = np.arange(-10, 11)
    passed, stopped = (abs((kernel[2:-2, 2:-2] * np.exp(1j * f * wave)).sum()) for f in (0.8, 2.6))
    assert passed > 0.85
    assert stopped < 0.15


def test_gaussian_noise():
    image = np.full((64, 64, 3), 0.5, np.float32)
    added = noise.add_gaussian_noise(image, 10, clip=False) - image
    assert added.std() * 255 == pytest.approx(10, rel=0.05)
    gray = noise.generate_gaussian_noise(image, 10, gray_noise=True)
    assert (gray[..., 0] == gray[..., 2]).all()
    rounded = noise.add_gaussian_noise(image, 300, rounds=True)
    assert rounded.min() >= 0 and rounded.max() <= 1
    np.testing.assert_allclose(rounded * 255, (rounded * 255).round(), atol=1e-4)


def test_gaussian_noise_of_batches():
    images = torch.full((2, 3, 64, 64), 0.5)
    gray = torch.tensor([0.0, 1.0])
    added = noise.generate_gaussian_noise_pt(images, torch.tensor([5.0, 20.0]), gray)
    assert added.std(dim=(1, 2, 3)).mul(255).tolist() == pytest.approx([5, 20], rel=0.05)
    assert not torch.equal(added[0, 0], added[0, 1])
    torch.testing.assert_close(added[1, 0], added[1, 1])
    out = noise.random_add_gaussian_noise_pt(images, (100, 200), gray_prob=0.5, clip=True, rounds=True)
    assert out.min() >= 0 and out.max() <= 1


def test_poisson_noise():
    image = np.tile(np.linspace(0.2, 0.8, 256, dtype=np.float32)[None, :, None], (256, 1, 3))
    added = noise.generate_poisson_noise(image)
    levels = len(np.unique((image * 255).round()))
    steps = 2 ** math.ceil(math.log2(levels))
    np.testing.assert_allclose(added.var(axis=(0, 2)).mean(), (image / steps).mean(), rtol=0.05)
    batch = img2tensor(image)[None].repeat(2, 1, 1, 1)
    both = noise.generate_poisson_noise_pt(batch, scale=torch.tensor([1.0, 2.0]), gray_noise=torch.tensor([0.0, 1.0]))
    assert both[0].var().item() == pytest.approx(added.var(), rel=0.05)
    assert both[1].var().item() == pytest.approx(4 * added.var(), rel=0.05)
    torch.testing.assert_close(both[1, 0], both[1, 2])
    assert noise.random_add_poisson_noise_pt(batch, (0.05, 3), 0.4).shape == batch.shape
    assert noise.random_add_poisson_noise(image, (0.05, 3), 0.4).max() <= 1


def test_jpeg(photos):
    image = cv2.imread(str(photos / "coffee.png"))
    coded = jpeg.add_jpg_compression(image.astype(np.float32) / 255, 40)
    expected = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 1)
    assert (coded * 255).round().astype(np.uint8).tolist() == expected.tolist()
    assert jpeg.random_add_jpg_compression(coded[..., :1].copy(), (30, 90)).shape == (130, 130, 1)


@pytest.mark.parametrize("quality", [20, 50, 90])
def test_jpeg_in_torch_equals_that_of_the_library(photos, quality):
    rgb = read_image(photos / "coffee.png")
    out = jpeg.DiffJPEG(differentiable=False)(img2tensor(rgb / 255, bgr2rgb=False)[None], quality)
    coded = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    library = cv2.cvtColor(cv2.imdecode(coded, 1), cv2.COLOR_BGR2RGB)
    ours = tensor2img(out, rgb2bgr=False)
    # The library smooths colours when it enlarges them, so the luma is compared, away from the padding.
    near, lost = (calculate_psnr(library, other, 8, "HWC", True) for other in (ours, rgb))
    assert near > max(45, lost + 5)


def test_jpeg_in_torch_has_a_gradient_and_a_quality_for_each_image():
    x = torch.rand(2, 3, 20, 24, requires_grad=True)
    coder = jpeg.DiffJPEG()
    both = coder(x, torch.tensor([10.0, 95.0]))
    torch.testing.assert_close(both[:1], coder(x[:1], 10))
    torch.testing.assert_close(both[1:], coder(x[1:], 95))
    both.square().sum().backward()
    assert x.grad.abs().sum() > 0
