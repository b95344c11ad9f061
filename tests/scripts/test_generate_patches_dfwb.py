import os
import shutil

import cv2
import numpy as np
import pytest

from basicsr.images.files import list_images, read_image, write_image

SCRIPT = "generate_patches_dfwb.py"
SMALL = ("--patch-size", 48, "--overlap", 8, "--longer-than", 128)


@pytest.fixture
def run(script, capsys):
    def run(*arguments, workers=1):
        code = script.main([str(argument) for argument in (*arguments, "--workers", workers)])
        return code, capsys.readouterr().out.strip().splitlines()

    return run


@pytest.fixture
def bsds(photos, tmp_path):
    """Folder like BSDS500's: 12003.jpg of another part, 3096.jpg and 33039.jpg of the validation part."""
    for name, photo in {"12003.jpg": "coffee", "val/3096.jpg": "rocket", "val/33039.jpg": "chelsea"}.items():
        whole = cv2.resize(read_image(photos / f"{photo}.png"), (481, 321) if photo != "rocket" else (321, 481))
        write_image(tmp_path / "bsds" / name, whole)
    return tmp_path / "bsds"


class TestPieces:
    @pytest.mark.parametrize(
        ("height", "width", "tops", "lefts"),
        [
            (1201, 1201, [0, 433], [0, 433]),
            (1408, 2040, [0, 640], [0, 640, 1272]),  # 1408 = 768 + 640: no square is needed at the border
            (1356, 2040, [0, 588], [0, 640, 1272]),
        ],
    )
    def test_published_cuts(self, script, tmp_path, height, width, tops, lefts):
        pieces = script.pieces(script.Image(tmp_path, "0001.png", height, width), tmp_path, 768, 128, 1200)
        assert [window for _, window in pieces] == [(top, left, 768, 768) for top in tops for left in lefts]
        assert [path.name for path, _ in pieces] == [f"0001_s{k:03d}.png" for k in range(1, len(pieces) + 1)]

    @pytest.mark.parametrize(("height", "width"), [(1200, 1201), (2040, 1200), (321, 481), (500, 4000)])
    def test_others_stay_whole(self, script, tmp_path, height, width):
        pieces = script.pieces(script.Image(tmp_path, "a/0001.bmp", height, width), tmp_path, 768, 128, 1200)
        assert pieces == [(tmp_path / "0001.png", (0, 0, height, width))]

    def test_published_defaults(self, script, tmp_path, monkeypatch):
        """The folders of the README, in the current folder; an image of 1201 pixels is cut, one of 1200 is not."""
        monkeypatch.chdir(tmp_path)
        image = np.random.default_rng(0).integers(0, 256, (1201, 1201, 3), np.uint8)
        for folder, side in zip(script.FOLDERS, (1201, 1200, 40, 30), strict=True):
            write_image(tmp_path / folder / f"{side}.png", image[:side])
        assert script.main(["--workers", "1"]) == 0
        found = {name: read_image(tmp_path / "datasets/DFWB" / name) for name in list_images("datasets/DFWB")}
        assert set(found) == {*(f"1201_s00{k}.png" for k in range(1, 5)), "1200.png", "30.png", "40.png"}
        np.testing.assert_array_equal(found["1201_s004.png"], image[433:, 433:])
        np.testing.assert_array_equal(found["1200.png"], image[:1200])


def test_files(run, photos, tmp_path):
    code, lines = run("-i", photos, "-o", tmp_path / "out", *SMALL, workers=2)
    assert (code, lines) == (0, ["20 files written, 0 existed already"])
    found = {name: read_image(tmp_path / "out" / name) for name in list_images(tmp_path / "out")}
    coffee = read_image(photos / "coffee.png")  # 130 x 130: squares at 0, 40, 80 and 82
    starts = [0, 40, 80, 82]
    for number, (top, left) in enumerate(((top, left) for top in starts for left in starts), 1):
        np.testing.assert_array_equal(found.pop(f"coffee_s{number:03d}.png"), coffee[top : top + 48, left : left + 48])
    for name, image in found.items():
        np.testing.assert_array_equal(image, read_image(photos / name))


def test_a_second_run_leaves_files_alone(run, photos, tmp_path):
    arguments = ("-i", photos, "-o", tmp_path / "out", *SMALL)
    run(*arguments)
    files = sorted((tmp_path / "out").iterdir())
    for file in files:
        os.utime(file, (1, 1))
    files[3].unlink()
    assert run(*arguments) == (0, [f"1 files written, {len(files) - 1} existed already"])
    assert [file.stat().st_mtime == 1 for file in files].count(False) == 1


class TestExclusion:
    def test_copies_are_left_out_and_named(self, run, photos, tmp_path):
        """Test images in gray of another range, compressed and halved, or in another format."""
        coffee = cv2.cvtColor(read_image(photos / "coffee.png"), cv2.COLOR_RGB2GRAY)
        small = cv2.resize((16 + coffee * (219 / 255)).astype(np.uint8), None, fx=0.5, fy=0.5)
        write_image(tmp_path / "tests/gray/1.jpg", small)
        write_image(tmp_path / "tests/colour/2.bmp", read_image(photos / "rocket.png"))
        tests = [tmp_path / "tests/gray", tmp_path / "tests/colour"]
        code, lines = run("-i", photos, "-o", tmp_path / "out", "--exclude", *tests, workers=2)
        assert (code, lines) == (0, [
            "left out 2 of 5 images:",
            f"  {photos / 'coffee.png'}: shows what {tests[0] / '1.jpg'} shows",
            f"  {photos / 'rocket.png'}: shows what {tests[1] / '2.bmp'} shows",
            "3 files written, 0 existed already",
        ])  # fmt: skip
        assert list_images(tmp_path / "out") == ["astronaut.png", "chelsea.png", "motorcycle_left.png"]

    def test_another_part_of_a_scene_is_another_picture(self, script, photos, tmp_path):
        image = read_image(photos / "chelsea.png")
        write_image(tmp_path / "in/a.png", image[:100, :120])
        write_image(tmp_path / "in/b.png", image[20:120, 30:150])
        assert script.copies_of(script.images_of(tmp_path / "in"), [photos], 1) == {}

    def test_images_of_one_level_are_no_copies(self, script, tmp_path):
        write_image(tmp_path / "a.png", np.full((100, 120, 3), 90, np.uint8))
        assert script.copies_of(script.images_of(tmp_path), [tmp_path], 1) == {}

    def test_validation_images_of_bsds500(self, run, bsds, tmp_path):
        arguments = ("-i", bsds, "-o", tmp_path / "out", "--exclude-bsds500-val")
        assert run(*arguments) == (0, [
            "left out 2 of 3 images:",
            f"  {bsds / 'val/3096.jpg'}: of BSDS500's validation part",
            f"  {bsds / 'val/33039.jpg'}: of BSDS500's validation part",
            "1 files written, 0 existed already",
        ])  # fmt: skip
        assert list_images(tmp_path / "out") == ["12003.png"]

    def test_without_exclusion_the_published_set_is_made_with_a_warning(self, run, bsds, tmp_path):
        code, lines = run("-i", bsds, "-o", tmp_path / "out")
        assert (code, lines) == (0, [
            "2 images are of BSDS500's validation part, as those of BSD68 and CBSD68 are: scores on these will be too "
            "good; --exclude-bsds500-val leaves them out",
            "3 files written, 0 existed already",
        ])  # fmt: skip

    def test_the_names_are_those_of_the_benchmark(self, script, bsds):
        assert len(script.BSDS500_VAL) == 100
        shutil.copy(bsds / "val/3096.jpg", bsds / "03096.jpg")  # WED counts like this
        write_image(bsds / "8023.jpg", np.zeros((300, 400, 3), np.uint8))  # of another size
        found = script.of_bsds500_val(script.images_of(bsds))
        assert list(found) == [bsds / "val/3096.jpg", bsds / "val/33039.jpg"]

    def test_no_published_training_image_is_among_the_names(self, script, shared):
        training = {name.split(".")[0] for name in list_images(shared / "data/train_photos/BSDS500_train")}
        assert len(training) == 197
        assert not training & script.BSDS500_VAL


class TestMistakes:
    def test_numbers(self, refused, photos):
        assert refused("-i", photos, "--overlap", 768).startswith("--overlap must be at least 0 and less than")
        assert refused("-i", photos, "--workers", 0).endswith("--workers at least 1")
        assert refused("-i", photos, "--longer-than", 700) == (
            "--longer-than must be at least 767, or no square fits (--patch-size)"
        )

    def test_folders(self, refused, photos, tmp_path):
        arguments = ("-o", tmp_path / "out")
        assert refused(*arguments, "-i", photos, tmp_path / "no").endswith("no: no such folder")
        assert refused(*arguments, "-i", photos, "--exclude", tmp_path).endswith(": no images; check the path")
        assert not (tmp_path / "out").exists()

    def test_two_images_of_one_name(self, refused, photos, tmp_path):
        shutil.copytree(photos, tmp_path / "more")
        message = refused("-i", photos, tmp_path / "more", "-o", tmp_path / "out")
        more = tmp_path / "more"
        assert (
            message == f"{photos / 'astronaut.png'} and {more / 'astronaut.png'} both become astronaut.png; rename one"
        )

    def test_pieces_of_what_is_left_out_now(self, run, refused, bsds, tmp_path):
        arguments = ("-i", bsds, "-o", tmp_path / "out")
        run(*arguments)
        assert refused(*arguments, "--exclude-bsds500-val") == (
            f"{tmp_path / 'out/3096.png'}: is of an image that is left out now, as are 1 more; delete them, or choose "
            "another --output"
        )
