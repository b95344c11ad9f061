"""NIQE: its fits on samples of known distributions, its features by a slow loop, its scores on photographs."""

import math

import cv2
import numpy as np
import pytest
import torch

from basicsr.compat.images import tensor2img
from basicsr.images.files import read_image
from basicsr.images.matlab_resize import imresize
from basicsr.metrics import calculate_niqe, describe, direction
from basicsr.metrics.evaluate import evaluate
from basicsr.metrics.niqe import _SHAPES, PARAMETERS, _features_at, _fit, _normalised, niqe


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    from pathlib import Path

    folder = Path(pytest.importorskip("skimage").__file__).parent / "data"
    return read_image(folder / "astronaut.png")[:, :, :3][:384, :384]


def samples(rng, shape, left, right, count):
    """Draw from an asymmetric generalized Gaussian: by the gamma distribution of |x / scale|^shape."""
    is_left = rng.random(count) < left / (left + right)
    size = rng.gamma(1 / shape, size=count) ** (1 / shape)
    return np.where(is_left, -left * size, right * size)


@pytest.mark.parametrize(
    ("shape", "left", "right"), [(2.0, 1.0, 1.0), (1.0, 0.5, 0.5), (0.8, 0.3, 0.6), (3.0, 2.0, 1.0)]
)
def test_a_fit_finds_the_distribution(shape, left, right):
    x = samples(np.random.default_rng(0), shape, left, right, 400 * 400).reshape(1, 400, 400)
    found, found_left, found_right = _fit(x)
    assert _SHAPES[found][0] == pytest.approx(shape, rel=0.04)
    assert found_left[0] == pytest.approx(left, rel=0.04)
    assert found_right[0] == pytest.approx(right, rel=0.04)


def slow_features(block):
    """The 18 features of one block (h, w), by the formulas of the paper, one number at a time."""
    gamma = math.gamma
    grid = [0.2 + 0.001 * k for k in range(9801)]

    def fit(x):
        left = math.sqrt(np.mean([v * v for v in x if v < 0]))
        right = math.sqrt(np.mean([v * v for v in x if v > 0]))
        g = left / right
        r = np.mean(np.abs(x)) ** 2 / np.mean(np.square(x)) * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
        a = min(grid, key=lambda a: (gamma(2 / a) ** 2 / (gamma(1 / a) * gamma(3 / a)) - r) ** 2)
        scale = math.sqrt(gamma(1 / a) / gamma(3 / a))
        return a, left * scale, right * scale

    a, left, right = fit(block.ravel())
    features = [a, (left + right) / 2]
    h, w = block.shape
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        product = [block[y, x] * block[(y - dy) % h, (x - dx) % w] for y in range(h) for x in range(w)]
        a, left, right = fit(np.array(product))
        features += [a, (right - left) * gamma(2 / a) / gamma(1 / a), left, right]
    return features


def test_features_are_those_of_the_paper(photo):
    gray = photo[:192, :288].mean(2).round()
    whole, half = _features_at(gray, 1), _features_at(gray, 2)
    assert whole.shape == half.shape == (6, 18)
    np.testing.assert_allclose(whole[4], slow_features(_normalised(gray)[96:192, 96:192]), rtol=1e-9)
    small = _normalised(imresize(gray / 255, 0.5) * 255)
    np.testing.assert_allclose(half[4], slow_features(small[48:96, 48:96]), rtol=1e-9)


def test_normalised_images_have_unit_deviation_and_no_mean():
    noise = 128 + 40 * np.random.default_rng(0).standard_normal((200, 200))
    found = _normalised(noise)
    assert abs(found.mean()) < 0.01 and found.std() == pytest.approx(0.9, abs=0.1)
    assert np.array_equal(_normalised(np.full((20, 20), 7.0)), np.zeros((20, 20)))


def test_damage_raises_the_score(photo):
    noise = np.random.default_rng(0).standard_normal(photo.shape) * 25
    score = calculate_niqe(photo)
    assert 2 < score < 6
    assert calculate_niqe(cv2.GaussianBlur(photo, (0, 0), 2)) > score + 2
    assert calculate_niqe(np.clip(photo + noise, 0, 255).astype(np.uint8)) > score + 2


def test_inputs_of_other_forms(photo):
    score = calculate_niqe(photo, crop_border=4)
    assert calculate_niqe(photo[4:-4, 4:-4]) == score
    assert calculate_niqe(photo.transpose(2, 0, 1), crop_border=4, input_order="CHW") == score
    tensor = torch.from_numpy(photo.transpose(2, 0, 1) / 255)[None]
    assert calculate_niqe(tensor2img(tensor), crop_border=4) == score  # BGR, and marked as that
    gray = photo[..., 1]
    assert calculate_niqe(gray) == calculate_niqe(gray[..., None]) == niqe(gray.astype(float))
    assert calculate_niqe(photo, convert_to="gray") != score
    with pytest.raises(ValueError, match="convert_to"):
        calculate_niqe(photo, convert_to="rgb")


@pytest.mark.parametrize("image", [np.zeros((300, 300), np.uint8), np.zeros((100, 100), np.uint8)])
def test_an_image_that_is_small_or_flat_has_no_score(image):
    assert math.isnan(calculate_niqe(image))


def test_it_scores_without_ground_truth(photo):
    metrics = {
        "niqe": {"type": "calculate_niqe", "crop_border": 0},
        "psnr": {"type": "calculate_psnr", "crop_border": 0},
    }
    assert direction(metrics["niqe"]) == "lower"
    assert describe(metrics["niqe"]) == "uint8, Y, crop 0"
    lq = torch.from_numpy(photo.transpose(2, 0, 1) / 255)[None]
    batches = [{"lq": lq, "lq_path": ["a.png"]}, {"lq": lq, "gt": lq, "lq_path": ["b.png"]}]
    scores = evaluate(lambda x: x, batches, metrics, "set").per_image
    assert scores["a"] == {"niqe": calculate_niqe(photo)}
    assert scores["b"] == {"niqe": calculate_niqe(photo), "psnr": math.inf}


def test_the_model_of_natural_images_comes_with_its_terms():
    with np.load(PARAMETERS) as stored:
        assert stored["mean"].shape == (36,) and stored["covariance"].shape == (36, 36)
        assert np.linalg.eigvalsh(stored["covariance"]).min() > 0
    terms = (PARAMETERS.parent / "NIQE_LICENSE.txt").read_text()
    assert "without license or royalty fees, to use, copy,\nmodify, and distribute" in terms
