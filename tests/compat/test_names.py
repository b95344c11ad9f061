"""The names that BasicSR 1.4's users import: they are where they were, and do what they did."""

import importlib
import io
import json
import logging
import math
import random
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from basicsr.archs import arch_util
from basicsr.data import build_dataset, data_util, degradations, transforms
from basicsr.losses.basic_loss import L1Loss
from basicsr.losses.loss_util import reduce_loss, weight_reduce_loss, weighted_loss
from basicsr.metrics import calculate_metric, metric_util
from basicsr.metrics.psnr_ssim import calculate_psnr
from basicsr.utils import color_util, misc
from basicsr.utils.diffjpeg import DiffJPEG
from basicsr.utils.file_client import FileClient
from basicsr.utils.img_process_util import USMSharp, filter2D, usm_sharp
from basicsr.utils.img_util import BGRImage, imfrombytes, img2tensor, imwrite, list_images, read_image, tensor2img
from basicsr.utils.logger import AvgTimer, MessageLogger, get_root_logger
from basicsr.utils.options import load_options, resolve
from basicsr.utils.plain_options import PlainOptions, dict2str, ordered_yaml, yaml_load

NAMES = {
    "basicsr.train": "train_pipeline",
    "basicsr.test": "test_pipeline",
    "basicsr.archs": "build_network",
    "basicsr.archs.arch_util": "to_2tuple trunc_normal_ default_init_weights make_layer Upsample pixel_unshuffle "
    "ResidualBlockNoBN flow_warp resize_flow",
    "basicsr.data": "build_dataset build_dataloader",
    "basicsr.data.data_util": "paired_paths_from_folder paired_paths_from_lmdb paired_paths_from_meta_info_file "
    "paths_from_folder paths_from_lmdb read_img_seq generate_frame_indices duf_downsample generate_gaussian_kernel",
    "basicsr.data.transforms": "augment paired_random_crop mod_crop img_rotate",
    "basicsr.data.degradations": "random_mixed_kernels circular_lowpass_kernel random_add_gaussian_noise_pt "
    "random_add_poisson_noise_pt random_add_gaussian_noise random_add_jpg_compression bivariate_Gaussian",
    "basicsr.data.paired_image_dataset": "PairedImageDataset",
    "basicsr.losses": "build_loss",
    "basicsr.losses.basic_loss": "L1Loss MSELoss CharbonnierLoss PerceptualLoss",
    "basicsr.losses.loss_util": "weighted_loss reduce_loss weight_reduce_loss",
    "basicsr.metrics": "calculate_metric calculate_psnr calculate_ssim calculate_niqe",
    "basicsr.metrics.metric_util": "reorder_image to_y_channel",
    "basicsr.models": "build_model",
    "basicsr.models.base_model": "BaseModel",
    "basicsr.models.sr_model": "SRModel",
    "basicsr.utils": "get_root_logger imwrite tensor2img img2tensor scandir DiffJPEG USMSharp FileClient imfrombytes "
    "bgr2ycbcr rgb2ycbcr ycbcr2rgb filter2D set_random_seed MessageLogger AvgTimer crop_border get_time_str "
    "make_exp_dirs mkdir_and_rename check_resume sizeof_fmt get_env_info init_tb_logger",
    "basicsr.utils.diffjpeg": "DiffJPEG",
    "basicsr.utils.dist_util": "get_dist_info init_dist master_only",
    "basicsr.utils.img_process_util": "filter2D USMSharp usm_sharp",
    "basicsr.utils.img_util": "tensor2img img2tensor imfrombytes imwrite crop_border",
    "basicsr.utils.logger": "get_root_logger MessageLogger AvgTimer",
    "basicsr.utils.matlab_functions": "imresize bgr2ycbcr rgb2ycbcr ycbcr2rgb ycbcr2bgr",
    "basicsr.utils.misc": "scandir set_random_seed",
    "basicsr.utils.options": "parse_options dict2str yaml_load copy_opt_file ordered_yaml",
    "basicsr.utils.registry": "ARCH_REGISTRY DATASET_REGISTRY LOSS_REGISTRY METRIC_REGISTRY MODEL_REGISTRY",
}


@pytest.mark.parametrize("module", NAMES)
def test_names_are_where_they_were(module):
    found = importlib.import_module(module)
    assert [name for name in NAMES[module].split() if not hasattr(found, name)] == []


def test_the_commands_import_no_torch_for_help():
    code = "import sys, basicsr.utils, basicsr.test; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


class TestArchUtil:
    def test_tuples(self):
        assert arch_util.to_2tuple(3) == (3, 3)
        assert arch_util.to_2tuple((1, 2)) == (1, 2)
        assert arch_util.to_4tuple("a") == "a"  # iterable

    def test_initial_weights(self):
        torch.manual_seed(0)
        expected = nn.init.kaiming_normal_(torch.empty(8, 4, 3, 3)) * 0.1
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8))
        torch.manual_seed(0)
        arch_util.default_init_weights([net], 0.1, bias_fill=0.5)
        torch.testing.assert_close(net[0].weight.detach(), expected)
        assert (net[0].bias == 0.5).all()
        assert (net[1].weight == 1).all()

    def test_blocks(self):
        x = torch.rand(2, 6, 5, 7)
        block = arch_util.make_layer(arch_util.ResidualBlockNoBN, 2, num_feat=6, res_scale=0.5)
        assert [name for name, _ in block[0].named_parameters()] == [
            "conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias",
        ]  # fmt: skip
        one = block[0]
        torch.testing.assert_close(one(x), x + 0.5 * one.conv2(F.relu(one.conv1(x))))

    @pytest.mark.parametrize(("scale", "convolutions"), [(2, [24]), (3, [54]), (4, [24, 24]), (8, [24, 24, 24])])
    def test_upsample(self, scale, convolutions):
        net = arch_util.Upsample(scale, 6)
        assert [m.out_channels for m in net if isinstance(m, nn.Conv2d)] == convolutions
        assert net(torch.rand(1, 6, 3, 4)).shape == (1, 6, 3 * scale, 4 * scale)

    def test_upsample_refuses_other_scales(self):
        with pytest.raises(ValueError, match="scale 6 is not supported"):
            arch_util.Upsample(6, 4)

    def test_pixel_unshuffle(self):
        x = torch.rand(2, 3, 4, 6)
        y = arch_util.pixel_unshuffle(x, 2)
        assert y.shape == (2, 12, 2, 3)
        assert torch.equal(F.pixel_shuffle(y, 2), x)

    def test_flow(self):
        x = torch.rand(1, 2, 5, 6)
        flow = torch.zeros(1, 5, 6, 2)
        flow[..., 0] = 1  # each pixel looks at its right neighbour
        torch.testing.assert_close(arch_util.flow_warp(x, flow)[..., :-1], x[..., 1:])
        small = arch_util.resize_flow(torch.ones(1, 2, 4, 8), "shape", (2, 2))
        assert small[0, :, 0, 0].tolist() == [0.25, 0.5]


class TestDataUtil:
    def test_pairs(self, photos, tmp_path):
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

    def test_a_sequence(self, photos):
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
    def test_frames(self, padding, first, last):
        assert data_util.generate_frame_indices(0, 100, 5, padding) == first
        assert data_util.generate_frame_indices(99, 100, 5, padding) == last

    def test_duf(self):
        x = torch.rand(1, 2, 3, 16, 20)
        y = data_util.duf_downsample(x, 13, 4)
        assert y.shape == (1, 2, 3, 4, 5)
        kernel = data_util.generate_gaussian_kernel(13, 1.6)
        assert kernel.sum() == pytest.approx(1)
        blurred = cv2.filter2D(x[0, 0, 0].double().numpy(), -1, kernel, borderType=cv2.BORDER_REFLECT_101)
        np.testing.assert_allclose(y[0, 0, 0, 1:3, 1:4], blurred[::4, ::4][1:3, 1:4], atol=1e-5)


class TestTransforms:
    def test_mod_crop(self):
        image = np.arange(35).reshape(5, 7)
        assert transforms.mod_crop(image, 3).tolist() == image[:3, :6].tolist()

    @pytest.mark.parametrize("kind", ["array", "tensor"])
    def test_pairs_are_cut_alike(self, kind):
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

    def test_all_positions_come_up(self):
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

    def test_rotation(self):
        image = np.zeros((5, 5, 3), np.uint8)
        image[0, 2] = 255
        assert transforms.img_rotate(image, 90)[2, 0].tolist() == [255] * 3


class TestDegradations:
    def test_gaussian_kernels(self):
        xx, yy = np.meshgrid(np.arange(-3, 4), np.arange(-3, 4))
        sigma = degradations.sigma_matrix2(2, 1, math.pi / 2)
        np.testing.assert_allclose(sigma, [[1, 0], [0, 4]], atol=1e-12)
        expected = np.exp(-(xx**2 / 1 + yy**2 / 4) / 2)
        kernel = degradations.bivariate_Gaussian(7, 2, 1, math.pi / 2, isotropic=False)
        np.testing.assert_allclose(kernel, expected / expected.sum(), rtol=1e-10)
        distance = (xx**2 + yy**2) / 1.5**2
        for kernel, shape in (
            (degradations.bivariate_generalized_Gaussian(7, 1.5, 0, 0, 0.7), np.exp(-(distance**0.7) / 2)),
            (degradations.bivariate_plateau(7, 1.5, 0, 0, 2), 1 / (1 + distance**2)),
        ):
            np.testing.assert_allclose(kernel, shape / shape.sum(), rtol=1e-10)

    @pytest.mark.parametrize(
        "kind", ["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]
    )
    def test_mixed_kernels(self, kind):
        kernel = degradations.random_mixed_kernels([kind], [1], 21, noise_range=[0.9, 1.1])
        assert kernel.shape == (21, 21)
        assert kernel.sum() == pytest.approx(1)
        if kind == "plateau_iso":  # no noise
            np.testing.assert_allclose(kernel, kernel.T)
        with pytest.raises(ValueError, match="odd"):
            degradations.random_mixed_kernels([kind], [1], 20)
        with pytest.raises(ValueError, match="knows no kernel"):
            degradations.random_mixed_kernels(["square"], [1])

    def test_sinc(self):
        kernel = degradations.circular_lowpass_kernel(math.pi / 2, 21, pad_to=25)
        assert kernel.shape == (25, 25)
        assert kernel.sum() == pytest.approx(1)
        assert (kernel[:2] == 0).all()
        # Below its cutoff a frequency passes, above it does not.
        wave = np.arange(-10, 11)
        passed, stopped = (abs((kernel[2:-2, 2:-2] * np.exp(1j * f * wave)).sum()) for f in (0.8, 2.6))
        assert passed > 0.85
        assert stopped < 0.15

    def test_gaussian_noise(self):
        image = np.full((64, 64, 3), 0.5, np.float32)
        noise = degradations.add_gaussian_noise(image, 10, clip=False) - image
        assert noise.std() * 255 == pytest.approx(10, rel=0.05)
        gray = degradations.generate_gaussian_noise(image, 10, gray_noise=True)
        assert (gray[..., 0] == gray[..., 2]).all()
        rounded = degradations.add_gaussian_noise(image, 300, rounds=True)
        assert rounded.min() >= 0 and rounded.max() <= 1
        np.testing.assert_allclose(rounded * 255, (rounded * 255).round(), atol=1e-4)

    def test_gaussian_noise_of_batches(self):
        images = torch.full((2, 3, 64, 64), 0.5)
        gray = torch.tensor([0.0, 1.0])
        noise = degradations.generate_gaussian_noise_pt(images, torch.tensor([5.0, 20.0]), gray)
        assert noise.std(dim=(1, 2, 3)).mul(255).tolist() == pytest.approx([5, 20], rel=0.05)
        assert not torch.equal(noise[0, 0], noise[0, 1])
        torch.testing.assert_close(noise[1, 0], noise[1, 1])
        out = degradations.random_add_gaussian_noise_pt(images, (100, 200), gray_prob=0.5, clip=True, rounds=True)
        assert out.min() >= 0 and out.max() <= 1

    def test_poisson_noise(self):
        image = np.tile(np.linspace(0.2, 0.8, 256, dtype=np.float32)[None, :, None], (256, 1, 3))
        noise = degradations.generate_poisson_noise(image)
        levels = len(np.unique((image * 255).round()))
        steps = 2 ** math.ceil(math.log2(levels))
        np.testing.assert_allclose(noise.var(axis=(0, 2)).mean(), (image / steps).mean(), rtol=0.05)
        batch = img2tensor(image)[None].repeat(2, 1, 1, 1)
        both = degradations.generate_poisson_noise_pt(
            batch, scale=torch.tensor([1.0, 2.0]), gray_noise=torch.tensor([0.0, 1.0])
        )
        assert both[0].var().item() == pytest.approx(noise.var(), rel=0.05)
        assert both[1].var().item() == pytest.approx(4 * noise.var(), rel=0.05)
        torch.testing.assert_close(both[1, 0], both[1, 2])
        assert degradations.random_add_poisson_noise_pt(batch, (0.05, 3), 0.4).shape == batch.shape
        assert degradations.random_add_poisson_noise(image, (0.05, 3), 0.4).max() <= 1

    def test_jpeg(self, photos):
        image = cv2.imread(str(photos / "coffee.png"))
        coded = degradations.add_jpg_compression(image.astype(np.float32) / 255, 40)
        expected = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 1)
        assert (coded * 255).round().astype(np.uint8).tolist() == expected.tolist()
        assert degradations.random_add_jpg_compression(coded[..., :1].copy(), (30, 90)).shape == (130, 130, 1)


class TestImages:
    def test_tensors_become_bgr_pictures(self, tmp_path):
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

    def test_grids_are_those_of_torchvision(self):
        make_grid = pytest.importorskip("torchvision.utils").make_grid
        x = torch.rand(5, 3, 4, 6)
        expected = make_grid(x, nrow=2, normalize=False).permute(1, 2, 0).numpy()[..., ::-1]
        np.testing.assert_allclose(tensor2img(x, out_type=np.float32), expected)

    def test_luma_is_right_whichever_order(self, photos):
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
        flipped = [image[..., ::-1] for image in bgr]  # their owner made RGB of them
        assert calculate_psnr(flipped[0], flipped[1], 4, "HWC", True) == pytest.approx(expected, abs=1e-9)
        assert abs(calculate_psnr(np.array(bgr[0]), np.array(bgr[1]), 4, "HWC", True) - expected) > 1
        y = metric_util.to_y_channel(bgr[0])
        np.testing.assert_allclose(y, 255 * color_util.rgb_to_y(rgb / 255), atol=1e-3)
        assert metric_util.reorder_image(np.zeros((3, 4, 5)), "CHW").shape == (4, 5, 3)

    def test_filter2d(self):
        images, kernels = torch.rand(2, 3, 12, 15), torch.rand(2, 5, 5)
        for kernel in (kernels, kernels[:1]):
            out = filter2D(images, kernel)
            for b in range(2):
                one = images[b].permute(1, 2, 0).numpy()
                wanted = cv2.filter2D(one, -1, kernel[b % len(kernel)].numpy(), borderType=cv2.BORDER_REFLECT_101)
                np.testing.assert_allclose(out[b].permute(1, 2, 0), wanted, rtol=1e-4)
        with pytest.raises(ValueError, match="must be odd"):
            filter2D(images, torch.rand(1, 4, 4))

    def test_unsharp_masking_sharpens_edges_alone(self, photos):
        image = read_image(photos / "coffee.png").astype(np.float32) / 255
        batch = img2tensor(image, bgr2rgb=False)[None]
        sharp = USMSharp(radius=20)(batch)
        wanted = usm_sharp(image, radius=20)
        np.testing.assert_allclose(sharp[0].permute(1, 2, 0), wanted, atol=1e-4)
        assert sharp.var() > batch.var()
        flat = torch.full((1, 3, 32, 32), 0.4)
        torch.testing.assert_close(USMSharp(radius=8)(flat), flat)

    @pytest.mark.parametrize("quality", [20, 50, 90])
    def test_jpeg_in_torch_is_that_of_the_library(self, photos, quality):
        rgb = read_image(photos / "coffee.png")
        out = DiffJPEG(differentiable=False)(img2tensor(rgb / 255, bgr2rgb=False)[None], quality)
        coded = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        library = cv2.cvtColor(cv2.imdecode(coded, 1), cv2.COLOR_BGR2RGB)
        ours = tensor2img(out, rgb2bgr=False)
        # The library smooths colours when it enlarges them, so the luma is compared, away from what is filled up.
        near, lost = (calculate_psnr(library, other, 8, "HWC", True) for other in (ours, rgb))
        assert near > max(45, lost + 5)

    def test_jpeg_in_torch_has_a_gradient_and_a_quality_for_each_image(self):
        x = torch.rand(2, 3, 20, 24, requires_grad=True)
        coder = DiffJPEG()
        both = coder(x, torch.tensor([10.0, 95.0]))
        torch.testing.assert_close(both[:1], coder(x[:1], 10))
        torch.testing.assert_close(both[1:], coder(x[1:], 95))
        both.square().sum().backward()
        assert x.grad.abs().sum() > 0


class TestTools:
    def test_file_client_reads_lmdb(self, tmp_path):
        lmdb = pytest.importorskip("lmdb")
        for name in ("a.lmdb", "b.lmdb"):
            with lmdb.open(str(tmp_path / name)) as database, database.begin(write=True) as transaction:
                transaction.put(b"key", name.encode())
        paths = [str(tmp_path / name) for name in ("a.lmdb", "b.lmdb")]
        client = FileClient("lmdb", db_paths=paths, client_keys=["lq", "gt"])
        assert (client.get("key", "lq"), client.get("key", "gt")) == (b"a.lmdb", b"b.lmdb")
        with pytest.raises(ValueError, match="client_key other is not in lmdb clients"):
            client.get("key", "other")
        with pytest.raises(ValueError, match="Backend memcached is not supported"):
            FileClient("memcached")

    def test_scandir(self, tmp_path):
        for name in ("b_arch.py", "a_arch.py", ".hidden_arch.py", "c.txt", "sub/d_arch.py"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        assert list(misc.scandir(tmp_path, suffix="_arch.py")) == ["a_arch.py", "b_arch.py"]
        assert list(misc.scandir(tmp_path, (".txt", "d_arch.py"), recursive=True)) == ["c.txt", "sub/d_arch.py"]
        assert list(misc.scandir(str(tmp_path), ".txt", full_path=True)) == [str(tmp_path / "c.txt")]
        with pytest.raises(TypeError, match="suffix"):
            misc.scandir(tmp_path, 3)

    def test_folders_are_kept(self, tmp_path):
        folder = tmp_path / "run"
        misc.mkdir_and_rename(folder)
        (folder / "weights").touch()
        misc.mkdir_and_rename(folder)
        (kept,) = tmp_path.glob("run_archived_*")
        assert (kept / "weights").exists()
        assert list(folder.iterdir()) == []
        path = {"experiments_root": str(tmp_path / "e"), "models": str(tmp_path / "e" / "models")}
        misc.make_exp_dirs({"is_train": True, "path": path})
        assert (tmp_path / "e" / "models").is_dir()

    def test_resume_points_to_the_weights(self):
        opt = {"network_g": {}, "network_d": {}, "path": {
            "resume_state": "x.state", "models": "m", "ignore_resume_networks": ["network_d"]}}  # fmt: skip
        misc.check_resume(opt, 50)
        assert opt["path"]["pretrain_network_g"].replace("\\", "/") == "m/net_g_50.pth"
        assert "pretrain_network_d" not in opt["path"]

    def test_seeds(self):
        draws = []
        for _ in range(2):
            misc.set_random_seed(7)
            draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
        assert draws[0] == draws[1]
        assert misc.sizeof_fmt(1536) == "1.5 KB"

    def test_messages(self, monkeypatch):
        stream = io.StringIO()
        monkeypatch.setattr(get_root_logger(), "handlers", [logging.StreamHandler(stream)])
        monkeypatch.setattr(get_root_logger(), "isEnabledFor", lambda level: True)
        tags = {}
        opt = {"name": "train_x", "train": {"total_iter": 100}, "logger": {"print_freq": 1, "use_tb_logger": True}}
        message = MessageLogger(
            opt, 1, tb_logger=SimpleNamespace(add_scalar=lambda tag, value, it: tags.update({tag: it}))
        )
        message({"epoch": 2, "iter": 30, "lrs": [1e-4], "time": 0.5, "data_time": 0.1, "l_pix": 0.25})
        assert stream.getvalue().startswith("[train..][epoch:  2, iter:      30, lr:(1.000e-04,)] [eta: ")
        assert stream.getvalue().endswith("time (data): 0.500 (0.100)] l_pix: 2.5000e-01\n")
        assert tags == {"losses/l_pix": 30}

    def test_average_time(self, monkeypatch):
        ticks = iter([0.0, 1.0, 4.0, 9.0])
        monkeypatch.setattr("basicsr.utils.logger.time.perf_counter", lambda: next(ticks))
        timer = AvgTimer(window=2)
        for _ in range(3):
            timer.record()
        assert (timer.get_current_time(), timer.get_avg_time()) == (5, 4)

    def test_a_log_file(self, tmp_path, monkeypatch):
        monkeypatch.setattr(get_root_logger(), "handlers", [])
        get_root_logger(log_level=logging.INFO, log_file=str(tmp_path / "x.log")).warning("hello")
        get_root_logger().handlers[0].close()
        assert "WARNING: hello" in (tmp_path / "x.log").read_text()


class TestOptions:
    def test_text(self):
        assert dict2str({"a": 1, "b": {"c": None}}) == "\n  a: 1\n  b:[\n    c: None\n  ]\n"

    def test_yaml_is_read_safely(self, tmp_path):
        (tmp_path / "x.yml").write_text("a: 2e-4\nb: [1, 2]\n")
        assert yaml_load(str(tmp_path / "x.yml")) == {"a": 2e-4, "b": [1, 2]} == yaml_load("a: 2e-4\nb: [1, 2]")
        with pytest.raises(Exception, match="could not determine a constructor"):
            yaml_load("!!python/object/apply:os.system [echo]")
        loader, dumper = ordered_yaml()
        yaml = importlib.import_module("yaml")
        assert list(yaml.load(yaml.dump({"b": 1, "a": 2}, Dumper=dumper, sort_keys=False), Loader=loader)) == ["b", "a"]

    def test_a_plug_in_may_write_to_its_options(self, tmp_path):
        (tmp_path / "x.yml").write_text(json.dumps({
            "name": "run", "scale": 2, "own": {"key": [1]}, "network_g": {"type": "CATANet-S", "upscale": 2},
            "datasets": {"train": {"name": "T", "type": "PairedImageDataset", "dataroot_gt": "x"}},
            "train": {"total_iter": 3, "optim_g": {"type": "Adam", "lr": 0.1}, "pixel_opt": {"type": "L1Loss"}},
        }))  # fmt: skip
        typed = resolve(load_options(tmp_path / "x.yml", is_train=True))
        opt = PlainOptions(typed)
        assert isinstance(opt, dict)
        assert opt["train"]["optim_g"].pop("type") == "Adam"
        assert opt["train"]["optim_g"] == {"lr": 0.1}
        assert typed.train.optim_g["type"] == opt.train.optim_g["type"] == "Adam"
        assert opt["own"] == {"key": [1]}
        assert opt["val"]["suffix"] is None  # declared, not set
        assert opt["val"].get("metrics") is None
        assert "tile" not in opt
        with pytest.raises(KeyError):
            opt["tile"]
        assert opt["path"]["experiments_root"] == "experiments/run"
        assert opt["datasets"]["train"]["phase"] == "train"
        assert (opt["is_train"], opt["dist"], opt["rank"]) == (True, False, 0)


class TestLosses:
    def test_weighted(self):
        @weighted_loss
        def distance(pred, target):
            return (pred - target).abs()

        pred, target = torch.tensor([1.0, 1.0, 3.0]), torch.zeros(3)
        weight = torch.tensor([1.0, 0.0, 2.0])
        assert distance(pred, target).item() == pytest.approx(5 / 3)
        assert distance(pred, target, weight).item() == pytest.approx(7 / 3)
        assert distance(pred, target, weight, "sum").item() == 7
        assert distance(pred, target, weight, reduction="none").tolist() == [1, 0, 6]
        with pytest.raises(ValueError, match="reduction"):
            reduce_loss(pred, "avg")
        maps = torch.rand(2, 3, 4, 4)
        mask = torch.randint(0, 2, (2, 1, 4, 4)).float()
        expected = (maps * mask).sum() / (mask.sum() * 3)
        torch.testing.assert_close(weight_reduce_loss(maps, mask), expected)

    def test_arguments_by_position(self):
        assert L1Loss(0.5, "sum")(torch.ones(2), torch.zeros(2), weight=None, extra=1).item() == 1


class TestDataSets:
    def opt(self, photos, **more):
        return {
            "name": "Photos", "type": "PairedImageDataset", "dataroot_gt": str(photos), "dataroot_lq": None,
            "io_backend": {"type": "disk"}, "scale": 2, "phase": "train", "gt_size": 32, "use_hflip": True,
            "use_rot": True, **more,
        }  # fmt: skip

    def test_pairs_by_one_opt(self, photos):
        from basicsr.data.paired_image_dataset import PairedImageDataset

        dataset = PairedImageDataset(self.opt(photos, mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5]))
        assert dataset.io_backend_opt["type"] == "disk"
        assert (len(dataset), dataset.mean) == (5, [0.5, 0.5, 0.5])
        assert dataset.opt["name"] == "Photos"
        sample = dataset[0]
        assert set(sample) == {"lq", "gt", "lq_path", "gt_path"}
        assert (sample["lq"].shape, sample["gt"].shape) == ((3, 16, 16), (3, 32, 32))
        assert sample["gt_path"] == dataset.paths[0]["gt_path"] == str(photos / "astronaut.png")
        assert isinstance(build_dataset(self.opt(photos)), PairedImageDataset)

    def test_single_images_by_one_opt(self, photos):
        from basicsr.data.single_image_dataset import SingleImageDataset

        dataset = SingleImageDataset({"name": "x", "dataroot_lq": str(photos), "io_backend": {"type": "disk"}})
        assert set(dataset[1]) == {"lq", "lq_path"}
        assert dataset.paths[1] == str(photos / "chelsea.png")

    def test_one_that_builds_on_ours_is_cropped_anew_each_epoch(self, photos, monkeypatch):
        from basicsr.data.data_sampler import SampleIndex
        from basicsr.data.paired_image_dataset import PairedImageDataset
        from basicsr.utils.registry import DATASET_REGISTRY

        class Mine(PairedImageDataset):
            def __init__(self, opt):
                super().__init__(opt)

            def __getitem__(self, index):
                return {**super().__getitem__(index), "mine": self.paths[index]["gt_path"]}

        monkeypatch.setattr(DATASET_REGISTRY, "_items", {**DATASET_REGISTRY._items, "Mine": Mine})
        dataset = build_dataset(self.opt(photos, type="Mine"), seed=3)
        first, second, again = (dataset[SampleIndex(epoch, 1)]["gt"] for epoch in (0, 1, 0))
        assert torch.equal(first, again)
        assert not torch.equal(first, second)


def test_niqe_says_what_it_lacks():
    from basicsr.metrics import calculate_niqe
    from basicsr.utils.errors import UnknownNameError
    from basicsr.utils.registry import METRIC_REGISTRY

    with pytest.raises(NotImplementedError, match="without a free licence"):
        calculate_niqe(np.zeros((100, 100, 3), np.uint8), crop_border=0)
    with pytest.raises(UnknownNameError, match="without a free licence"):  # when the options are read
        METRIC_REGISTRY.get("calculate_niqe")
