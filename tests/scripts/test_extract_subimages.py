import os
import shutil

import numpy as np
import pytest
from helpers import damage_pixels

from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.images.files import list_images, read_image, write_image
from basicsr.images.matlab_resize import imresize

SCRIPT = "extract_subimages.py"
SMALL = ("--crop-size", 48, "--step", 24)


@pytest.fixture
def run(script, capsys):
    def run(*arguments, workers=1):
        code = script.main([str(argument) for argument in (*arguments, "--workers", workers)])
        return code, capsys.readouterr().out.strip()

    return run


@pytest.fixture
def pairs(photos, tmp_path):
    """Folder of photographs whose sides no scale divides, and one of their LR images X2, X3, X4."""
    for name in ("coffee.png", "rocket.png"):
        image = read_image(photos / name)[:119, :127]
        write_image(tmp_path / "hr" / name, image)
        for scale in (2, 3, 4):
            height, width = (side // scale * scale for side in image.shape[:2])
            small = imresize(image[:height, :width], 1 / scale)
            write_image(tmp_path / f"lr/X{scale}" / name.replace(".", f"x{scale}."), small)
    return tmp_path / "hr", tmp_path / "lr"


@pytest.mark.parametrize(("scale", "side", "step"), [(1, 480, 240), (2, 240, 120), (3, 160, 80), (4, 120, 60)])
def test_published_numbers_of_hr_and_lr_go_together(script, scale, side, step):
    """Cut by hand with the published sizes, LR images whose HR sides are multiples of 12 fall into as many squares."""
    height, width = 1404, 2040
    squares = script.cut_up("a.png", height // scale, width // scale, side, step, 0, 1)
    whole = script.cut_up("a.png", height, width, 480, 240, 0, 12)
    assert [tuple(scale * value for value in square) for square in squares] == [tuple(square) for square in whole]


def test_squares_and_names(run, photos, tmp_path):
    image = read_image(photos / "coffee.png")
    write_image(tmp_path / "in/sub/0001.png", image)
    assert run("-i", tmp_path / "in", "-o", tmp_path / "out", *SMALL) == (0, "25 files written, 0 existed already")
    assert list_images(tmp_path / "out") == [f"sub/0001_s{number:03d}.png" for number in range(1, 26)]
    starts = [0, 24, 48, 72, 82]
    for number, (top, left) in enumerate(((top, left) for top in starts for left in starts), 1):
        square = read_image(tmp_path / f"out/sub/0001_s{number:03d}.png")
        np.testing.assert_array_equal(square, image[top : top + 48, left : left + 48])


@pytest.mark.parametrize("scales", [[2], [3], [4], [2, 3, 4]])
def test_counts_agree_and_pairs_fit(run, pairs, tmp_path, scales):
    hr, lr = pairs
    assert run("-i", hr, "-o", tmp_path / "sub", *SMALL, "--scale", *scales, "--lr", lr, workers=2)[0] == 0
    names = list_images(tmp_path / "sub")
    for scale in scales:
        assert list_images(lr / f"X{scale}_sub") == names
        dataset = PairedImageDataset(
            dataroot_gt=str(tmp_path / "sub"), dataroot_lq=str(lr / f"X{scale}_sub"), scale=scale, gt_size=48
        )
        assert len(dataset) == len(names) > 20
        for name in names:
            square = read_image(tmp_path / "sub" / name)
            small = imresize(square, 1 / scale).astype(int)
            inner = slice(2, -2)  # away from the edges, where the whole image had more to look at
            given = read_image(lr / f"X{scale}_sub" / name)
            np.testing.assert_array_equal(given[inner, inner], small[inner, inner])


def test_without_folders_div2k_is_cut(run, pairs, tmp_path, monkeypatch):
    hr, lr = pairs
    (tmp_path / "datasets/DIV2K").mkdir(parents=True)
    hr.rename(tmp_path / "datasets/DIV2K/DIV2K_train_HR")
    lr.rename(tmp_path / "datasets/DIV2K/DIV2K_train_LR_bicubic")
    monkeypatch.chdir(tmp_path)
    assert run(*SMALL)[0] == 0
    made = {folder.name for folder in (tmp_path / "datasets/DIV2K/DIV2K_train_LR_bicubic").iterdir()}
    assert made == {"X2", "X3", "X4", "X2_sub", "X3_sub", "X4_sub"}
    squares = list_images(tmp_path / "datasets/DIV2K/DIV2K_train_HR_sub")
    assert squares == list_images(tmp_path / "datasets/DIV2K/DIV2K_train_LR_bicubic/X4_sub")
    assert len(squares) > 2


def test_an_image_that_cannot_be_read_does_not_stop_the_others(run, refused, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "hr")
    damage_pixels(tmp_path / "hr/astronaut.png")
    arguments = ("-i", tmp_path / "hr", "-o", tmp_path / "out", *SMALL)
    message = refused(*arguments, "--workers", 1)
    assert message.startswith("1 of 5 images failed, the others are done; mend these and start again: ")
    assert message.endswith("hr/astronaut.png: cannot be decoded as an image; replace the file")
    others = list_images(tmp_path / "out")
    assert {name.split("_s")[0] for name in others} == {path.stem for path in photos.iterdir()} - {"astronaut"}
    shutil.copy(photos / "astronaut.png", tmp_path / "hr")
    code, text = run(*arguments)
    assert code == 0 and text.endswith(f"{len(others)} existed already")


def test_a_second_run_leaves_files_alone(run, photos, tmp_path):
    arguments = ("-i", photos, "-o", tmp_path / "out", "--crop-size", 100, "--step", 50)
    _, first = run(*arguments)
    files = sorted((tmp_path / "out").iterdir())
    for file in files:
        os.utime(file, (1, 1))
    files[3].unlink()
    assert run(*arguments) == (0, f"1 files written, {len(files) - 1} existed already")
    assert first == f"{len(files)} files written, 0 existed already"
    assert [file.stat().st_mtime == 1 for file in files].count(False) == 1


class TestMistakes:
    def test_numbers(self, refused, photos, tmp_path):
        paths = ("-i", photos, "-o", tmp_path / "out")
        assert refused(*paths, "--step", 0).startswith("--crop-size, --step, --workers and --scale must be at least 1")
        assert refused(*paths, "--lr", photos) == "--lr needs --scale"
        assert refused(*paths, *SMALL, "--scale", 5) == (
            "--crop-size and --step must be multiples of 5, as all of --scale must divide them"
        )

    def test_images(self, refused, photos, tmp_path):
        paths = ("-i", photos, "-o", tmp_path / "out")
        message = "astronaut.png: 144x121 (height x width) is smaller than --crop-size 480; leave it out"
        assert refused(*paths).endswith(message)
        assert refused("-i", tmp_path / "no", "-o", tmp_path / "out").endswith("no: no such folder")
        assert not (tmp_path / "out").exists()

    def test_partners(self, refused, pairs, tmp_path):
        hr, lr = pairs
        arguments = ("-i", hr, "-o", tmp_path / "sub", *SMALL, "--lr", lr, "--scale", 3)
        write_image(lr / "X3/coffeex3.png", np.zeros((40, 42, 3), np.uint8))
        assert "coffeex3.png: expected 39x42 (height x width), got 40x42; make it with" in refused(*arguments)
        (lr / "X3/coffeex3.png").unlink()
        assert refused(*arguments).startswith(f"{lr / 'X3'}: 1 of 2 images cannot be used")
        assert not (tmp_path / "sub").exists()

    def test_two_images_of_one_name(self, refused, photos, tmp_path):
        for name in ("a.png", "a.jpg"):
            write_image(tmp_path / "in" / name, read_image(photos / "coffee.png"))
        message = refused("-i", tmp_path / "in", "-o", tmp_path / "out", *SMALL)
        assert message.endswith("a.jpg and a.png both become a_s001.png; rename one")
