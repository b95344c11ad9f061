"""The network as a function from image to image: every kind of image, every setting, tiles, memory."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fake_graphs import FakeBackend
from PIL import Image
from torch import nn

import basicsr
from basicsr.archs import atd_arch, atdu_arch, build_network, catanet_arch
from basicsr.engine.checkpoint import save_atomically
from basicsr.errors import CheckpointError, OptionError
from basicsr.images.files import image_size, read_image, write_image
from basicsr.images.matlab_resize import imresize
from basicsr.inference import memory as memory_module
from basicsr.inference import writing
from basicsr.inference.settings import OVERLAP, TILES
from basicsr.inference.upscaler import Upscaler

SR = {"type": "ATD", "upscale": 2, **atd_arch.TINY}
GRAY = {"type": "ATDUNet", **atdu_arch.TINY, "in_chans": 1}
CATANET = {"type": "CATANet", "upscale": 2, **catanet_arch.TINY}


class Identity(nn.Module):
    """Scale 1, or pixels as squares."""

    def __init__(self, upscale=1):
        super().__init__()
        self.upscale = upscale
        self.sizes = []

    def forward(self, x):
        self.sizes.append(tuple(x.shape))
        return x.repeat_interleave(self.upscale, -1).repeat_interleave(self.upscale, -2)


def identity(upscale=1, channels=3, **settings):
    spec = {"type": "Bicubic", "upscale": upscale, "in_chans": channels}
    return Upscaler(Identity(upscale), spec, device="cpu", **settings)


def trained(spec):
    """With token centres, which a step of training sets."""
    torch.manual_seed(0)
    net = build_network(spec)
    with torch.no_grad():
        net.train()(torch.rand(1, spec.get("in_chans", 3), 16, 16))
    return net.eval()


def squares(image, scale):
    return image.repeat(scale, 0).repeat(scale, 1)


@pytest.fixture(scope="module")
def photo(photos):
    """121x83 px, RGB."""
    return np.ascontiguousarray(read_image(photos / "coffee.png")[:121, :83])


@pytest.fixture
def network(tmp_path):
    """A small ATD in a file of its own, and as it was built."""
    torch.manual_seed(3)
    net = build_network(SR).eval()
    save_atomically({"params": net.state_dict(), "network_g": SR}, tmp_path / "own.pth")
    return tmp_path / "own.pth", net


def test_from_the_top_of_the_package(network, photo):
    path, net = network
    upscale = basicsr.Upscaler.from_checkpoint(path, device="cpu")
    output = upscale(photo[:30, :20])
    with torch.no_grad():
        expected = net(torch.from_numpy(photo[:30, :20].copy()).permute(2, 0, 1)[None] / 255)[0].permute(1, 2, 0)
    assert output.dtype == np.uint8 and output.shape == (60, 40, 3)
    assert np.array_equal(output, (expected.clamp(0, 1) * 255).round().byte().numpy())
    assert upscale.upscale == 2 and upscale.channels == 3 and upscale.spec["type"] == "ATD"


class TestForPhotos:
    @pytest.mark.parametrize("scale", [2, 4])
    def test_it_is_the_shipped_network(self, photo, photo_networks, scale):
        upscale = basicsr.Upscaler.for_photos(scale, device="cpu", tile=0)
        assert (upscale.upscale, upscale.channels, upscale.tile) == (scale, 3, 0)
        assert upscale.spec == {"type": "CATANet-XS", "upscale": scale, "keep": [0, 4, 7]}
        image = photo[:40, :48]
        output = upscale(image)
        assert np.array_equal(output, Upscaler.from_checkpoint(photo_networks[scale], device="cpu", tile=0)(image))
        assert output.shape == (scale * 40, scale * 48, 3)

    def test_it_enlarges_four_times(self, photo_networks):
        assert Upscaler.for_photos(device="cpu").upscale == 4

    @pytest.mark.parametrize("scale", [1, 3, 8])
    def test_there_is_none_for_other_scales(self, scale):
        with pytest.raises(OptionError, match=f"--scale: there is no network for {scale}; --task photo, the default"):
            Upscaler.for_photos(scale)


class TestIdentityIsBitForBit:
    @pytest.mark.parametrize("scale", [1, 3])
    @pytest.mark.parametrize("settings", [{}, {"tile": 0}, {"tile": 32, "overlap": 8}, {"tile": 17, "overlap": 8}])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    def test_of_every_type(self, photo, dtype, settings, scale):
        image = {np.uint8: photo, np.uint16: photo.astype(np.uint16) * 257 - (photo > 9)}.get(dtype)
        image = np.random.default_rng(0).random(photo.shape, np.float32) if image is None else image
        bits = 8 * np.dtype(dtype).itemsize
        output = identity(scale, **settings)(image, bits=bits)
        assert output.dtype == dtype
        assert np.array_equal(output, squares(image, scale))

    def test_of_every_file(self, photo, tmp_path):
        up = identity(tile=32, overlap=8)
        deep = photo.astype(np.uint16) * 257 - (photo > 9)
        for suffix, image, bits in ((".png", photo, 8), (".tif", deep, 16), (".png", deep, 16), (".bmp", photo, 8)):
            write_image(tmp_path / f"in{suffix}", image)
            up.upscale_file(tmp_path / f"in{suffix}", tmp_path / f"out{suffix}", bits=bits)
            assert np.array_equal(read_image(tmp_path / f"out{suffix}"), image)

    def test_of_a_canvas_that_lies_in_a_file(self, photo, tmp_path, monkeypatch):
        monkeypatch.setattr(writing, "CANVAS_BYTES", 0)
        write_image(tmp_path / "in.bmp", photo)
        identity(2, tile=32, overlap=8).upscale_file(
            tmp_path / "in.bmp", tmp_path / "out/a.png", compare=tmp_path / "out/b.png"
        )
        assert np.array_equal(read_image(tmp_path / "out/a.png"), squares(photo, 2))
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]


class TestKindsOfImages:
    def test_arrays(self, photo):
        up, gray = identity(2), identity(2, channels=1)
        assert np.array_equal(up(photo[..., 0]), squares(np.dstack([photo[..., 0]] * 3), 2))
        assert np.array_equal(gray(photo[..., :1]), squares(photo[..., 0], 2))
        assert np.array_equal(gray(photo), squares(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), 2))
        assert np.array_equal(up(photo.astype(np.uint16) * 257), squares(photo, 2))  # 8 bits, unless asked otherwise
        assert np.array_equal(up(photo / 255), squares(photo, 2))
        assert np.array_equal(up(photo[::-1, ::2]), squares(photo[::-1, ::2], 2))  # not contiguous

    def test_alpha_is_enlarged_bicubically(self, photo):
        alpha = photo[..., 1]
        output = identity(2, tile=32, overlap=8)(np.dstack([photo, alpha]))
        assert output.shape == (242, 166, 4)
        assert np.array_equal(output[..., :3], squares(photo, 2))
        exact = imresize(alpha.astype(np.float64), 2).clip(0, 255)
        assert np.abs(output[..., 3] - exact).max() < 0.502
        assert identity(2, channels=1)(np.dstack([photo[..., 0], alpha])).shape == (242, 166, 2)

    @pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "CMYK"])
    def test_pil(self, photo, mode):
        image = Image.fromarray(photo).convert(mode)
        output = identity(2)(image)
        assert isinstance(output, Image.Image)
        assert output.mode == ("RGBA" if mode.endswith("A") else "RGB") and output.size == (166, 242)
        expected = np.array(image.convert("RGB"))
        assert np.array_equal(np.array(output)[..., :3], squares(expected, 2))
        assert identity(2, channels=1)(image.convert("L")).mode == "L"
        with pytest.raises(ValueError, match="PIL images are given back in 8 bits"):
            identity()(image, bits=16)

    @pytest.mark.parametrize("kind", [str, Path])
    def test_paths(self, photo, tmp_path, kind):
        write_image(tmp_path / "a.png", photo)
        assert np.array_equal(identity()(kind(tmp_path / "a.png")), photo)
        with pytest.raises(FileNotFoundError):
            identity()(kind(tmp_path / "b.png"))

    @pytest.mark.parametrize(
        ("image", "message"),
        [
            (
                np.zeros((4, 4, 5), np.uint8),
                r"expected an image \(H, W\), \(H, W, 3\) or, with alpha, \(H, W, 4\), got",
            ),
            (np.zeros((0, 4, 3), np.uint8), r"got \(0, 4, 3\)"),
            (np.zeros((4, 4, 3), np.int32), "uint8, uint16 or floats in"),
            (np.full((4, 4, 3), 200.0), "divide pixels of 8 bits by 255"),
            (np.full((4, 4, 3), np.nan), "expected floats in"),
            (torch.zeros(4, 4), r"expected a tensor \(C, H, W\) or \(B, C, H, W\), uint8 or floats"),
            (torch.zeros(3, 4, 4, dtype=torch.int32), "of torch.int32"),
            (b"bytes", "expected an array, a PIL image or a path, got bytes"),
        ],
    )
    def test_other_values_are_errors(self, image, message):
        with pytest.raises(ValueError, match=message):
            identity()(image)

    def test_other_bits(self, photo):
        with pytest.raises(ValueError, match="bits: must be one of 8, 16, 32, got 12"):
            identity()(photo, bits=12)


class TestSettings:
    def test_self_ensemble_is_the_mean_over_the_turns(self, network, photo):
        path, net = network
        output = Upscaler.from_checkpoint(path, device="cpu", self_ensemble=True)(photo[:20, :30], bits=32)
        lq = torch.from_numpy(photo[:20, :30].copy()).permute(2, 0, 1)[None] / 255
        total = torch.zeros(1, 3, 40, 60)
        with torch.no_grad():
            for turns in range(4):
                total += torch.rot90(net(torch.rot90(lq, turns, (2, 3))), -turns, (2, 3))
                total += torch.rot90(net(torch.rot90(lq.flip(3), turns, (2, 3))), -turns, (2, 3)).flip(3)
        np.testing.assert_allclose(output, (total / 8).clamp(0, 1)[0].permute(1, 2, 0), atol=1e-5)

    @pytest.mark.parametrize("spec", [SR, CATANET], ids=["autocast", "prepared"])
    def test_bfloat16_is_near_and_not_equal(self, spec, photo):
        net = trained(spec)
        full, half = (
            Upscaler(net, spec, device="cpu", dtype=dtype)(photo[:24, :24], bits=32)
            for dtype in ("float32", torch.bfloat16)
        )
        assert full.dtype == half.dtype == np.float32
        assert 0 < np.abs(full - half).mean() < 0.03

    def test_matmul_precision_holds_while_the_network_runs(self, photo):
        found = []

        class Asking(Identity):
            def forward(self, x):
                found.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
                return super().forward(x)

        before = torch.get_float32_matmul_precision()
        for precision in ("highest", "high"):
            Upscaler(Asking(), {"type": "Bicubic", "upscale": 1}, device="cpu", matmul_precision=precision)(photo)
        assert found == [("highest", False), ("high", True)]
        assert torch.get_float32_matmul_precision() == before
        with pytest.raises(OptionError, match="--matmul_precision: must be one of highest, high, medium, got 'low'"):
            Upscaler(Identity(), {"type": "Bicubic", "upscale": 1}, device="cpu", matmul_precision="low")

    def test_float16_needs_cuda(self):
        with pytest.raises(OptionError, match="float16 runs on CUDA alone, not on cpu"):
            identity(dtype="float16")
        with pytest.raises(OptionError, match="--dtype: must be one of float32, bfloat16, float16, got 'float8'"):
            identity(dtype="float8")

    @pytest.mark.parametrize("settings", [{"tile": -1}, {"tile": "much"}, {"tile": 1.5}])
    def test_wrong_tiles(self, settings):
        with pytest.raises(OptionError, match=r"--tile: must be auto, 0 \(the whole image\) or a number of px"):
            identity(**settings)
        with pytest.raises(OptionError, match=r"--overlap: must be in \[0, 20\] for tiles of 40 px, got 21"):
            identity(tile=40, overlap=21)
        assert identity(tile=2 * OVERLAP).tile == 2 * OVERLAP

    def test_settings_are_checked_before_the_file_is_read(self, tmp_path):
        with pytest.raises(OptionError, match="--overlap"):
            Upscaler.from_checkpoint(tmp_path / "none.pth", overlap=-1)
        with pytest.raises(CheckpointError, match=r"none\.pth"):
            Upscaler.from_checkpoint(tmp_path / "none.pth")

    def test_sizes_that_a_network_does_not_take_are_filled_up(self, photo):
        net = Identity(2)
        net.min_side, net.multiple_of = 16, 8
        output = Upscaler(net, {"type": "Bicubic", "upscale": 2}, device="cpu")(photo[:5, :21])
        assert net.sizes[-1] == (1, 3, 16, 24)
        assert np.array_equal(output, squares(photo[:5, :21], 2))


class TestTiles:
    def test_a_number_is_the_side_and_borders_are_blended(self, photo):
        up = identity(tile=40, overlap=8)
        up(photo)
        assert {shape[2:] for shape in up._run.sizes} == {(40, 40)} and len(up._run.sizes) == 4 * 3

    def test_tiled_output_is_near_that_of_the_whole(self, photo):
        path = Path(__file__).parents[2] / "pretrained_models/CATANet-XS-D_x4.pth"
        image = photo[:, :64]  # 3 tiles
        whole = Upscaler.from_checkpoint(path, device="cpu", tile=0)(image).astype(float)
        tiled = Upscaler.from_checkpoint(path, device="cpu", tile=64)(image)
        assert 10 * np.log10(255**2 / ((whole - tiled) ** 2).mean()) > 40

    def test_auto_takes_the_whole_image_where_there_is_memory(self):
        assert identity(memory=2**40).tile_for(500, 400) == 500 or identity().tile_for(64, 64) == 64

    @pytest.mark.parametrize("free", [2**20, 30 * 2**20, 100 * 2**20, 2**30, 2**34])
    def test_auto_takes_the_largest_tiles_that_fit(self, monkeypatch, free):
        monkeypatch.setattr(memory_module, "memory_limit", lambda device: free)
        net = build_network({"type": "Bicubic", "upscale": 4})
        up = Upscaler(net, {"type": "Bicubic", "upscale": 4}, device="cpu")
        tile = up.tile_for(3000, 4000)
        assert tile in TILES
        assert {2**20: 64, 2**34: 1024}.get(free, tile) == tile  # a CPU does some megapixel at a time
        if tile not in (64, 1024):
            assert up._planner.estimate_peak(tile, tile) < free
            larger = TILES[TILES.index(tile) - 1]
            assert up._planner.estimate_peak(larger, larger) + 4 * 3 * 16 * larger * 4000 > 0.3 * free
        assert up.tile_for(3000, 4000, held=free) == 64

    def test_auto_stays_below_what_it_is_given(self, monkeypatch):
        monkeypatch.setattr(memory_module, "memory_limit", lambda device: 2**34)
        monkeypatch.setattr(memory_module, "resident_bytes", lambda: 400 * 2**20)
        net = build_network({"type": "Bicubic", "upscale": 4})
        tiles = [
            Upscaler(net, {"type": "Bicubic"}, device="cpu", memory=memory).tile_for(3000, 4000)
            for memory in (560 * 2**20, 800 * 2**20, 2**34)
        ]
        assert tiles[0] < tiles[1] < tiles[2]

    def test_memory_that_runs_out_all_the_same(self, photo, caplog):
        class Greedy(Identity):
            def forward(self, x):
                if x.shape[-1] * x.shape[-2] > 70 * 70:
                    raise MemoryError
                return super().forward(x)

        up = Upscaler(Greedy(2), {"type": "Bicubic", "upscale": 2}, device="cpu")
        with caplog.at_level(logging.ERROR, "basicsr"):
            assert np.array_equal(up(photo), squares(photo, 2))
        assert "Out of memory for an image of 83x121 px" in caplog.text


class TestGraphs:
    def test_tiles_and_frames_of_one_size_are_repeated(self, network, photo):
        path, _ = network
        plain, graphed = (Upscaler.from_checkpoint(path, device="cpu", tile=40) for _ in range(2))
        backend = graphed._graphed._backend = FakeBackend()
        image = photo[:90, :56]  # 4 x 2 tiles
        for _ in range(2):
            assert np.array_equal(graphed(image), plain(image))
        assert backend.count("record") == 1
        assert backend.count("replay") > 10

    def test_memory_is_estimated_without_them(self):
        up = identity(tile="auto")
        backend = up._graphed._backend = FakeBackend()
        up._planner.estimate_peak(200, 200)
        up._planner.estimate_peak(300, 300)
        assert backend.done == []


class TestBatches:
    @pytest.mark.parametrize("settings", [{}, {"tile": 32, "overlap": 8}])
    @pytest.mark.parametrize("spec", [SR, CATANET, GRAY], ids=lambda spec: spec["type"])
    def test_together_and_alone_are_equal(self, spec, settings, photo):
        up = Upscaler(trained(spec), spec, device="cpu", **settings)
        images = [np.ascontiguousarray(photo[k : k + 20, :36]) for k in (0, 30)]
        for image, output in zip(images, up.batch(images, bits=32), strict=True):
            np.testing.assert_allclose(output, up(image, bits=32), atol=2e-4)

    def test_none_and_different_ones(self, photo):
        assert identity().batch([]) == []
        with pytest.raises(ValueError, match="batch: images differ"):
            identity().batch([photo, photo[:50]])


@pytest.mark.parametrize(
    ("target", "size", "bits", "message"),
    [
        (
            "a.webp",
            (20_000, 10),
            8,
            r"a\.webp: 10x20000 px are more than \.webp files have \(16383 a side\); use \.png",
        ),
        ("a.JPG", (10, 70_000), 8, r"70000x10 px are more than \.jpg files have"),
        ("a.jpg", (10, 10), 16, "this format has no 16-bit pixels; use one of .png"),
        ("a.png", (10, 10), 32, "this format has no 32-bit pixels"),
        ("a.psd", (10, 10), 8, "unknown image suffix"),
        ("a.heic", (10, 10), 8, "HEIC files are read, not written; use .jpg"),
    ],
)
def test_limits_of_formats_are_checked_before_the_network_runs(target, size, bits, message):
    with pytest.raises(ValueError, match=message):
        writing.check_target(target, size, bits)


def test_an_image_too_wide_for_its_format(tmp_path):
    write_image(tmp_path / "a.webp", np.zeros((2, 9000, 3), np.uint8))
    up = identity(2)
    with pytest.raises(ValueError, match="18000x4 px are more than"):
        up.upscale_file(tmp_path / "a.webp", tmp_path / "b.webp")
    assert up._run.sizes == []
    up.upscale_file(tmp_path / "a.webp", tmp_path / "b.png")
    assert image_size(tmp_path / "b.png") == (4, 18000)
