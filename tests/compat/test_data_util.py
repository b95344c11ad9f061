"""Lists of files, frames and crops that data sets written for BasicSR 1.4 import."""

import random

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from basicsr.compat import data_util, transforms
from basicsr.compat.images import img2tensor, imwrite
from basicsr.images.files import list_images, read_image


def test_pairs(photos, tmp_path):
    for name in list_images(photos):
        imwrite(np.zeros((4, 4, 3), np.uint8), str(tmp_path / f"{name[:-4]}x2.png"))
    pairs = data_util.paired_paths_from_folder([str(tmp_path), str(photos)], ["lq", "gt"], "{}x2")
    assert [p["gt_path"] for p in pairs] == data_util.paths_from_folder(str(photos))
    assert pairs[0]["lq_path"] == str(tmp_path / "astronautx2.png")
    meta = tmp_path / "meta.txt"
    meta.write_text("coffee.png (130,130,3)\nrocket.png (1,1,3)\n")
    some = data_util.paired_paths_from_meta_info_file([str(tmp_path), str(photos)], ["lq", "gt"], str(meta), "{}x2")
    assert some == [pairs[2], pairs[4]]
    (tmp_path / "extra.png").write_bytes((tmp_path / "coffeex2.png").read_bytes())
    with pytest.raises(ValueError, match=r"different number of images: 6 .* 5"):
        data_util.paired_paths_from_folder([str(tmp_path), str(photos)], ["lq", "gt"], "{}x2")


def test_a_sequence(photos):
    frames, names = data_util.read_img_seq(
        [photos / "coffee.png"] * 2, require_mod_crop=True, scale=4, return_imgname=True
    )
    assert (frames.shape, names) == ((2, 3, 128, 128), ["coffee"] * 2)
    np.testing.assert_allclose(
        frames[0].permute(1, 2, 0).numpy() * 255, read_image(photos / "coffee.png")[:128, :128], atol=1e-3
    )


@pytest.mark.parametrize(
    ("padding", "first", "last"),
    [
        ("replicate", [0, 0, 0, 1, 2], [97, 98, 99, 99, 99]),
        ("reflection", [2, 1, 0, 1, 2], [97, 98, 99, 98, 97]),
        ("reflection_circle", [4, 3, 0, 1, 2], [97, 98, 99, 96, 95]),
        ("circle", [3, 4, 0, 1, 2], [97, 98, 99, 95, 96]),
    ],
)
def test_frames(padding, first, last):
    assert data_util.generate_frame_indices(0, 100, 5, padding) == first
    assert data_util.generate_frame_indices(99, 100, 5, padding) == last


def test_duf():
    x = torch.rand(1, 2, 3, 16, 20)
    y = data_util.duf_downsample(x, 13, 4)
    assert y.shape == (1, 2, 3, 4, 5)
    kernel = data_util.generate_gaussian_kernel(13, 1.6)
    assert kernel.sum() == pytest.approx(1)
    blurred = cv2.filter2D(x[0, 0, 0].double().numpy(), -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    np.testing.assert_allclose(y[0, 0, 0, 1:3, 1:4], blurred[::4, ::4][1:3, 1:4], atol=1e-5)


def test_mod_crop():
    image = np.arange(35).reshape(5, 7)
    assert transforms.mod_crop(image, 3).tolist() == image[:3, :6].tolist()


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_pairs_are_cut_alike(kind):
    lq = np.random.default_rng(0).random((9, 11, 3), np.float32)
    gt = lq.repeat(2, 0).repeat(2, 1)
    if kind == "tensor":
        lq, gt = (img2tensor(image, bgr2rgb=False)[None] for image in (lq, gt))
    places = set()
    for seed in range(20):
        random.seed(seed)
        big, small = transforms.paired_random_crop(gt, lq, 8, 2)
        again = F.interpolate(small, scale_factor=2) if kind == "tensor" else small.repeat(2, 0).repeat(2, 1)
        assert (np.asarray(big) == np.asarray(again)).all()
        places.add(float(np.asarray(small).flat[0]))
    assert len(places) > 10
    with pytest.raises(ValueError, match="Scale mismatches"):
        transforms.paired_random_crop(gt, lq, 8, 3)
    with pytest.raises(ValueError, match="smaller than patch size"):
        transforms.paired_random_crop(gt, lq, 20, 2, "a.png")


def test_all_positions_come_up():
    image, flow = np.arange(6.0).reshape(2, 3, 1), np.ones((2, 3, 2))
    seen = {}
    for seed in range(200):
        random.seed(seed)
        (one, two), status = transforms.augment([image, image + 1], return_status=True)
        assert (two == one + 1).all()
        seen[status] = one[..., 0].tolist()
        random.seed(seed)
        _, turned = transforms.augment(image, flows=flow)
        x, y = (-1 if status[0] else 1), (-1 if status[1] else 1)
        assert turned[0, 0].tolist() == ([y, x] if status[2] else [x, y])
    assert len(seen) == 8
    assert seen[True, False, False] == image[:, ::-1, 0].tolist()
    assert seen[False, True, True] == image[::-1, :, 0].T.tolist()


def test_rotation():
    image = np.zeros((5, 5, 3), np.uint8)
    image[0, 2] = 255
    assert transforms.img_rotate(image, 90)[2, 0].tolist() == [255] * 3
