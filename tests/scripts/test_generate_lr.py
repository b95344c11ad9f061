import os
import shutil

import numpy as np
import pytest

from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.images.files import list_images, read_image, write_image

SCRIPT = "data_preparation/generate_lr.py"


@pytest.fixture
def run(script, tmp_path, capsys):
    def run(*arguments, workers=1):
        code = script.main(["-o", str(tmp_path / "out"), "--workers", str(workers), *map(str, arguments)])
        return code, capsys.readouterr().out.strip()

    return run


def test_equals_the_published_files(run, shared, tmp_path):
    assert run("-i", shared / "data/Set5/HR", workers=2) == (0, "15 files written, 0 existed already")
    published = shared / "data/Set5/LR_bicubic"
    assert len(list_images(tmp_path / "out")) == 15
    for name in list_images(tmp_path / "out"):
        np.testing.assert_array_equal(read_image(tmp_path / "out" / name), read_image(published / name))


def test_what_it_writes_is_a_data_set(run, photos, tmp_path):
    crops = tmp_path / "crops"
    assert run("-i", photos, "--scale", 3, "--crop-hr", crops) == (0, "10 files written, 0 existed already")
    assert len(list_images(tmp_path / "out/X3")) == 5
    for gt in (photos, crops / "X3"):
        dataset = PairedImageDataset(
            dataroot_gt=str(gt), dataroot_lq=str(tmp_path / "out/X3"), filename_tmpl="{}x3", scale=3, phase="val"
        )
        assert len(dataset) == 5
    for name in list_images(crops / "X3"):
        height, width = read_image(crops / "X3" / name).shape[:2]
        assert height % 3 == width % 3 == 0
        np.testing.assert_array_equal(read_image(crops / "X3" / name), read_image(photos / name)[:height, :width])


def test_a_second_run_leaves_files_alone(run, photos, tmp_path):
    run("-i", photos, "--scale", 4)
    first = tmp_path / "out/X4/coffeex4.png"
    os.utime(first, (1, 1))
    (tmp_path / "out/X4/rocketx4.png").unlink()
    assert run("-i", photos, "--scale", 4) == (0, "1 files written, 4 existed already")
    assert first.stat().st_mtime == 1
    assert run("-i", photos, "--scale", 4, "--overwrite") == (0, "5 files written, 0 existed already")
    assert first.stat().st_mtime > 1


def test_suffix_subfolders_and_sixteen_bits(run, photos, tmp_path):
    (tmp_path / "hr/sub").mkdir(parents=True)
    shutil.copy(photos / "chelsea.png", tmp_path / "hr/sub/a.b.png")
    write_image(tmp_path / "hr/deep.tif", np.full((8, 8, 3), 40000, np.uint16))
    assert run("-i", tmp_path / "hr", "--scale", 2, 2, "--suffix", "_LRBI_x{scale}")[0] == 0
    assert list_images(tmp_path / "out") == ["X2/deep_LRBI_x2.png", "X2/sub/a.b_LRBI_x2.png"]
    deep = read_image(tmp_path / "out/X2/deep_LRBI_x2.png")
    assert deep.dtype == np.uint16 and np.unique(deep) == [40000]


class TestMistakes:
    def test_folders(self, refused, tmp_path):
        assert refused("-i", tmp_path / "nowhere", "-o", tmp_path) == f"{tmp_path / 'nowhere'}: no such folder"
        assert refused("-i", tmp_path, "-o", tmp_path) == f"{tmp_path}: no images; check the path"

    def test_numbers(self, refused, photos, tmp_path):
        message = "--scale and --workers must be at least 1"
        assert refused("-i", photos, "-o", tmp_path, "--scale", 0) == message

    def test_two_images_of_one_name(self, refused, photos, tmp_path):
        for name in ("a.png", "a.jpg"):
            write_image(tmp_path / "hr" / name, read_image(photos / "coffee.png"))
        message = refused("-i", tmp_path / "hr", "-o", tmp_path / "out", "--scale", 2)
        assert message.endswith(f"a.jpg and a.png both become {tmp_path / 'out/X2/ax2.png'}; rename one")

    def test_damaged_and_tiny(self, refused, photos, tmp_path):
        data = (photos / "coffee.png").read_bytes()
        (tmp_path / "hr").mkdir()
        (tmp_path / "hr/a.png").write_bytes(data[:-100])
        message = refused("-i", tmp_path / "hr", "-o", tmp_path / "out")
        assert "a.png: the file is cut off" in message
        write_image(tmp_path / "hr/a.png", np.zeros((2, 9, 3), np.uint8))
        message = refused("-i", tmp_path / "hr", "-o", tmp_path / "out", "--scale", 3)
        assert message.endswith("a.png: 2x9 pixels are too few for scale 3")
        assert list_images(tmp_path / "out") == [] if (tmp_path / "out").exists() else True
