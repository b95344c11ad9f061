import json

import numpy as np
import pytest
from helpers import damage_pixels

from basicsr.images.files import read_image, write_image
from basicsr.metrics.psnr_ssim import calculate_psnr, calculate_ssim

SCRIPT = "metrics/calculate_psnr_ssim.py"


@pytest.fixture
def folders(tmp_path):
    """Writes ground truth and a noisy copy of it under other names; returns the folders and the pixels."""

    def folders(sizes, rename="{}", scale=1, gray=False):
        rng = np.random.default_rng(0)
        pixels = {}
        for k, (height, width) in enumerate(sizes):
            name = f"img{k}"
            gt = rng.integers(0, 256, (height, width) if gray else (height, width, 3)).astype(np.uint8)
            sr = np.clip(gt.astype(int) + rng.integers(-9, 10, gt.shape), 0, 255).astype(np.uint8)
            sr = sr[: height - height % scale, : width - width % scale]
            write_image(tmp_path / "gt" / f"{name}.png", gt)
            write_image(tmp_path / "sr" / f"{rename.format(name)}.png", np.ascontiguousarray(sr))
            pixels[name] = gt, sr
        return tmp_path / "gt", tmp_path / "sr", pixels

    return folders


@pytest.fixture
def run(script, capsys, tmp_path):
    def run(gt, sr, *arguments):
        out = tmp_path / "scores.json"
        assert (
            script.main(["--gt", str(gt), "--restored", str(sr), "--workers", "1", "--json", str(out), *arguments]) == 0
        )
        printed = capsys.readouterr()
        warnings = [line for line in printed.err.splitlines() if line.startswith("warning: ")]
        return json.loads(out.read_text()), printed.out, warnings

    return run


def test_all_protocols_are_those_of_the_metrics(folders, run):
    gt, sr, pixels = folders([(40, 44), (48, 36)])
    scores, _, _ = run(gt, sr, "--scale", "4")
    assert set(scores["mean"]) == {f"{m} {c}, crop {b}" for m in ("psnr", "ssim") for c in ("Y", "RGB") for b in (0, 4)}
    for name, (a, b) in pixels.items():
        for luma in (True, False):
            for crop in (0, 4):
                how = {"crop_border": crop, "test_y_channel": luma}
                key = f"{'Y' if luma else 'RGB'}, crop {crop}"
                found = scores["per_image"][name]
                assert found[f"psnr {key}"] == calculate_psnr(b, a, **how)
                assert found[f"ssim {key}"] == calculate_ssim(b, a, **how)


def test_where_the_scale_does_not_divide_both_choices_of_mod_crop_are_scored(folders, run):
    gt, sr, pixels = folders([(41, 47)])
    scores, out, warnings = run(gt, sr, "--scale", "4", "--paper", "ATD")
    a, b = pixels["img0"]
    found = scores["mean"]
    assert found["psnr Y, crop 4"] == calculate_psnr(a, b, crop_border=4, test_y_channel=True)
    cut = calculate_psnr(a[:40, :44], b[:40, :44], crop_border=4, test_y_channel=True)
    assert found["psnr Y, crop 4, cut to a multiple of 4"] == cut != found["psnr Y, crop 4"]
    (row,) = (line for line in out.splitlines() if "**" in line)
    assert row.startswith("| Y, crop 4, cut to a multiple of 4 |") and "**ATD v1**, **ATD v2**" in row
    assert warnings == []


def test_smaller_outputs_are_compared_with_the_cut_ground_truth_and_warned_of(folders, run):
    gt, sr, pixels = folders([(41, 47)], "{}_x4", scale=4)
    scores, _, warnings = run(gt, sr)
    a, b = pixels["img0"]
    assert scores["mean"]["psnr RGB, crop 0, cut to a multiple of 4"] == calculate_psnr(a[:40, :44], b, crop_border=0)
    assert "psnr RGB, crop 0" not in scores["mean"]
    assert warnings == [
        "warning: the scale is assumed to be 4; set it by --scale",
        "warning: img0: is 44x40 px, the ground truth 47x41; that is cut to a multiple of 4 in all protocols",
    ]


@pytest.mark.parametrize("name", ["{}", "{}_X4", "{}x4", "{}_SRx4", "{}_103_ATD_light_SRx4_finetune", "{}_HR"])
def test_names_match_whatever_is_added(name, folders, run):
    gt, sr, _ = folders([(40, 40)] * 12, name)
    scores, _, warnings = run(gt, sr, "--scale", "4")
    assert list(scores["per_image"]) == sorted(f"img{k}" for k in range(12))  # img1 is not img10 or img11
    assert warnings == []


def test_what_has_no_partner_or_another_size_is_named_and_left_out(folders, run):
    gt, sr, _ = folders([(40, 40)] * 3)
    (sr / "img0.png").rename(sr / "other.png")
    write_image(sr / "img1.png", np.zeros((20, 20, 3), np.uint8))
    scores, _, warnings = run(gt, sr, "--scale", "2")
    assert list(scores["per_image"]) == ["img2"]
    assert warnings == [
        "warning: other.png: has no ground truth; it is left out",
        "warning: img0.png: has no restored image; the means are without it",
        "warning: img1: is 20x20 px, the ground truth 40x40; it is left out",
    ]


@pytest.mark.parametrize(
    ("paper", "row", "said"),
    [
        ("BasicSR", "RGB, crop 4", "BasicSR: PSNR uint8, RGB, crop 4, SSIM uint8, RGB, crop 4"),
        ("ATD v2", "Y, crop 4", "ATD v2: PSNR uint8, Y, crop 4, SSIM uint8, Y, crop 4"),
        ("CATANet", "Y, crop 4", "CATANet: PSNR float, Y, crop 4, SSIM float, Y, crop 4"),
        ("ATD-U", "RGB, crop 0", "ATD-U: PSNR float, RGB, crop 0, SSIM uint8, RGB, crop 0"),
    ],
)
def test_the_protocol_of_a_paper_is_named(paper, row, said, folders, run):
    gt, sr, _ = folders([(40, 40)])
    _, out, _ = run(gt, sr, "--scale", "4", "--paper", paper)
    marked = [line for line in out.splitlines() if f"**{paper}" in line]
    assert [line.split("|")[1].strip() for line in marked] == [row]
    assert said in out.splitlines()
    assert ("before rounding" in out) == ("float" in said)


def test_gray_images_are_their_own_luma(folders, run):
    gt, sr, pixels = folders([(40, 40)], gray=True)
    scores, _, _ = run(gt, sr)
    a, b = pixels["img0"]
    assert scores["mean"]["psnr Y, crop 0"] == scores["mean"]["psnr RGB, crop 0"] == calculate_psnr(a, b, crop_border=0)


def test_what_cannot_be_done_is_refused(folders, refused, script):
    gt, sr, _ = folders([(40, 40)])
    write_image(sr / "img0_x4.png", np.zeros((40, 40, 3), np.uint8))
    both = ("--gt", gt, "--restored", sr)
    assert refused(*both) == "img0.png and img0_x4.png would both belong to img0.png; name one suffix by --suffix"
    assert refused(*both, "--paper", "EDSR").startswith("--paper: unknown, got 'EDSR'; known are BasicSR, ATD v1, ")
    assert "no such folder" in refused("--gt", gt, "--restored", sr / "x")
    (sr / "img0.png").unlink()
    (sr / "img0_x4.png").rename(sr / "something.png")
    assert refused(*both) == f"{sr}: no image has the name of one in {gt}; try --suffix"


def test_an_image_that_cannot_be_read_is_left_out_and_said(folders, script, capsys, tmp_path):
    gt, sr, _ = folders([(40, 40)] * 3)
    arguments = ["--gt", str(gt), "--restored", str(sr), "--scale", "4", "--workers", "1"]
    arguments += ["--json", str(tmp_path / "out.json"), "--per-image"]
    damage_pixels(sr / "img1.png")
    assert script.main(arguments) == 2
    printed = capsys.readouterr()
    assert f"warning: {sr / 'img1.png'}: cannot be decoded as an image; replace the file; it is left out" in printed.err
    assert "sr: 2 of 3 images, scale 4" in printed.out and "| **mean of 2 of 3** |" in printed.out
    scores = json.loads((tmp_path / "out.json").read_text())
    assert list(scores["per_image"]) == ["img0", "img2"] and list(scores["failed"]) == ["img1"]


def test_images_of_one_stem_are_all_scored(tmp_path, run):
    rng = np.random.default_rng(0)
    for name in ("x/a.png", "y/a.png", "b.png", "b.bmp"):
        gt = rng.integers(0, 200, (20, 20, 3)).astype(np.uint8)
        write_image(tmp_path / "gt" / name, gt)
        write_image(tmp_path / "sr" / name, gt + np.uint8(rng.integers(1, 50)))
    scores, _, warnings = run(tmp_path / "gt", tmp_path / "sr", "--scale", "1")
    assert sorted(scores["per_image"]) == ["b", "b~2", "x/a", "y/a"] and not warnings
    for name, pair in {"x/a": "x/a.png", "y/a": "y/a.png", "b": "b.bmp", "b~2": "b.png"}.items():
        gt, sr = (read_image(tmp_path / folder / pair) for folder in ("gt", "sr"))
        assert scores["per_image"][name]["psnr RGB, crop 0"] == calculate_psnr(sr, gt, crop_border=0)


def test_one_stem_in_another_folder_is_not_guessed(tmp_path, run):
    image = np.zeros((20, 20, 3), np.uint8)
    for name in ("gt/x/a.png", "gt/y/a.png", "gt/b.png", "sr/a.png", "sr/b.png"):
        write_image(tmp_path / name, image)
    scores, _, warnings = run(tmp_path / "gt", tmp_path / "sr", "--scale", "1")
    assert list(scores["per_image"]) == ["b"]
    assert any("a.png: may belong to x/a.png or y/a.png; it is left out" in line for line in warnings)
