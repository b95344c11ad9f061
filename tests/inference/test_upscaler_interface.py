"""`Upscaler` as others use it: lists, tensors, progress, threads, and the lines in its documentation."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import squares
from PIL import Image

from basicsr.archs import build_network, catanet_arch
from basicsr.engine.device import matmul_precision
from basicsr.images.files import read_image, write_image
from basicsr.inference.upscaler import Upscaler

ROOT = Path(__file__).parents[2]
CATANET = {"type": "CATANet", "upscale": 2, **catanet_arch.TINY}


@pytest.fixture(scope="module")
def photo(photos):
    """61x53 px, RGB."""
    return np.ascontiguousarray(read_image(photos / "coffee.png")[:61, :53])


@pytest.fixture(scope="module")
def upscaler():
    """A small CATANet with token centres, in tiles."""
    torch.manual_seed(0)
    net = build_network(CATANET)
    with torch.no_grad():
        net.train()(torch.rand(1, 3, 16, 16))
    return Upscaler(net, CATANET, device="cpu", tile=32, overlap=8)


class TestTensors:
    def test_floats_come_back_as_they_went_in(self, photo):
        tensor = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].expand(2, -1, -1, -1) / 255
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            output = squares(2)(tensor.to(dtype))
            assert output.dtype == dtype and output.shape == (2, 3, 122, 106)
            assert torch.equal(output[..., ::2, ::2].float(), tensor.to(dtype).float())
        assert squares(2)(tensor[0]).shape == (3, 122, 106)
        assert not squares(2)(tensor[0].requires_grad_()).requires_grad

    def test_integers_gray_and_alpha(self, photo):
        tensor = torch.from_numpy(photo.copy()).permute(2, 0, 1)
        output = squares(2)(tensor)
        assert output.dtype == torch.uint8 and torch.equal(output[..., ::2, ::2], tensor)
        assert squares(2)(tensor[:1]).shape == (3, 122, 106)  # a network of RGB
        assert squares(2, channels=1)(tensor[:1]).shape == (1, 122, 106)
        assert squares(2)(torch.cat([tensor, tensor[:1]])).shape == (4, 122, 106)


class TestLists:
    def test_every_item_comes_back_in_its_kind_and_place(self, photo, tmp_path):
        write_image(tmp_path / "a.png", photo[:20])
        images = [photo, Image.fromarray(photo[:9]), photo[:, :30], torch.rand(3, 5, 7), tmp_path / "a.png"]
        outputs = squares(2)(images)
        assert [type(output) for output in outputs] == [np.ndarray, Image.Image, np.ndarray, torch.Tensor, np.ndarray]
        assert [getattr(o, "size", None) if isinstance(o, Image.Image) else tuple(o.shape) for o in outputs] == [
            *((122, 106, 3), (106, 18), (122, 60, 3), (3, 10, 14), (40, 106, 3)),
        ]
        assert squares()([]) == [] and len(squares()((photo,))) == 1

    def test_equal_arrays_go_together(self, photo):
        up = squares()
        sizes = []
        run = up._run
        up._run = lambda lq: sizes.append(len(lq)) or run(lq)
        images = [photo + k for k in range(5)] + [photo[:30], photo[:30]]
        outputs = up(images, batch=3)
        assert sizes == [3, 2, 2]
        assert all(np.array_equal(output, image) for output, image in zip(outputs, images, strict=True))


class TestProgress:
    def test_tiles_of_one_image_and_images_of_a_list(self, photo):
        seen = []
        squares(2, tile=32, overlap=8)(photo, progress=lambda *steps: seen.append(steps))
        assert seen == [(k, 6) for k in range(1, 7)]  # 3 rows of 2
        seen.clear()
        squares()([photo] * 5, batch=2, progress=lambda *steps: seen.append(steps))
        assert seen == [(2, 5), (4, 5), (5, 5)]

    def test_an_exception_in_it_ends_the_work_and_leaves_no_file(self, photo, tmp_path):
        write_image(tmp_path / "a.png", photo)

        def cancel(done, total):
            raise InterruptedError("enough")

        up = squares(2, tile=32, overlap=8)
        with pytest.raises(InterruptedError, match="enough"):
            up.upscale_file(tmp_path / "a.png", tmp_path / "b.png", progress=cancel)
        assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
        assert up(photo).shape == (122, 106, 3)  # goes on


class TestThreads:
    def test_threads_that_share_one_get_what_one_thread_gets(self, upscaler, photo):
        images = [np.ascontiguousarray(photo[k : k + 40 + k, : 53 - k]) for k in range(8)]
        alone = [upscaler(image) for image in images]
        with ThreadPoolExecutor(8) as pool:
            for _ in range(3):
                together = list(pool.map(upscaler, images))
                assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))

    def test_the_memory_that_ran_out_for_one_is_known_to_all(self, photo):
        class Greedy(torch.nn.Module):
            upscale = 1

            def forward(self, x):
                if x.shape[-1] * x.shape[-2] > 70 * 70:
                    raise MemoryError
                return x

        up = Upscaler(Greedy(), {"type": "Bicubic", "upscale": 1}, device="cpu", tile=0)
        image = np.tile(photo, (2, 2, 1))
        with ThreadPoolExecutor(8) as pool:
            assert all(np.array_equal(output, image) for output in pool.map(up, [image] * 8))

    def test_precisions_of_several_threads_do_not_mix(self):
        before, wrong, barrier = torch.get_float32_matmul_precision(), [], threading.Barrier(6)

        def use(precision):
            barrier.wait()
            for _ in range(200):
                with matmul_precision(precision):
                    wrong.extend([precision] if torch.get_float32_matmul_precision() != precision else [])

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(use, ["highest", "high", "medium"] * 2))
        assert wrong == [] and torch.get_float32_matmul_precision() == before


def test_the_lines_that_beginners_copy(photo, photo_networks, tmp_path, monkeypatch):
    text = (ROOT / "docs/upscaler.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line.strip()]) == 8
    monkeypatch.chdir(tmp_path)
    write_image("photo.jpg", photo)
    names = {}
    exec(code, names)
    with Image.open("large.png") as image:
        assert image.size == (4 * 53, 4 * 61)
        assert (
            np.abs(np.array(image.resize((53, 61), Image.Resampling.BOX)).astype(int) - read_image("photo.jpg")).mean()
            < 4
        )
    assert isinstance(names["large"], Image.Image)
    assert names["pixels"].shape == (4 * 61, 4 * 53, 3) and names["pixels"].dtype == np.uint8
