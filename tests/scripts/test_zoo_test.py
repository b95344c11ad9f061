"""The zoo is complete and consistent, and `make zoo-test` measures it."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import TINY_CATANET, damage_pixels

from basicsr import Upscaler
from basicsr.archs import build_network
from basicsr.archs.published import load_network
from basicsr.config.load import load_options
from basicsr.engine.checkpoint import load_file, save_atomically, sha256_of

SCRIPT = "zoo_test.py"
ROOT = Path(__file__).parents[2]
ZOO = ROOT / "pretrained_models"
INDEX = json.loads((ZOO / "zoo.json").read_text())
NAME = "CATANet-XS_x2"


@pytest.mark.parametrize("name", INDEX)
class TestMember:
    def test_it_has_all_its_files(self, name, script):
        assert (ROOT / script.weights_of(name)).is_file()
        for suffix in (".yml", ".log", ".md"):
            assert (ZOO / f"{name}{suffix}").is_file()
        for suffix in (".yml", ".log"):  # weights are named as everybody has them, not by folders of one machine
            assert not re.search(r"(from |WARNING: |[=:] ?)/\w", (ZOO / f"{name}{suffix}").read_text())
        load_options(ZOO / f"{name}.yml", is_train=True)
        for path in INDEX[name]["tests"]:
            opt = load_options(ROOT / path, is_train=False)
            assert (opt.scale, opt.path.pretrain_network_g) == (INDEX[name]["scale"], str(script.weights_of(name)))

    def test_it_is_the_network_of_the_index(self, name, script):
        path, entry = ROOT / script.weights_of(name), INDEX[name]
        net = load_network(path)  # strictly
        assert sha256_of(path) == entry["sha256"]
        assert sum(parameter.numel() for parameter in net.parameters()) == entry["parameters"]
        assert net.upscale == entry["scale"]
        assert entry["task"] == ("photo" if name.endswith("_photo") else "sr")
        assert "params_ema" not in load_file(path)  # tests and inference would not use the same weights

    def test_it_enlarges(self, name, script):
        path = ROOT / script.weights_of(name)
        upscale = Upscaler.from_checkpoint(path, device="cpu")
        image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
        scale = INDEX[name]["scale"]
        assert upscale(image).shape == (20 * scale, 24 * scale, 3)
        with torch.no_grad():
            output = load_network(path)(torch.rand(1, 3, 20, 24))
        assert output.isfinite().all() and output.std() > 0.01

    def test_its_card_has_the_scores_of_the_index(self, name, script):
        card, entry = (ZOO / f"{name}.md").read_text(), INDEX[name]
        assert script.TABLE.search(card)[0].splitlines()[1:-1] == script.score_table(entry["scores"]).splitlines()
        assert ("photos_test_q75" if entry["task"] == "photo" else "Set5") in entry["scores"]
        assert f"{entry['parameters']:,}" in card
        for path in entry["tests"]:
            assert path in card  # in the command that reproduces the scores


def test_every_network_is_in_the_index(script, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert script.members() == sorted(INDEX)


ROW = re.compile(r"^\| \[[^]]+\]\((?:\.\./)?pretrained_models/(CATANet-[\w-]+)\.md\).*", re.MULTILINE)


@pytest.mark.parametrize("page", ["README.md", "docs/prune_distill.md"])
def test_tables_quote_the_scores_of_8_bit_images(page):
    rows = list(ROW.finditer((ROOT / page).read_text(encoding="utf-8")))
    for row in rows:
        entry = INDEX[row[1]]
        sets = [next(scores for protocol, scores in found.items() if "uint8" in protocol)
                for found in entry["scores"].values()]  # fmt: skip
        known = {f"{scores['psnr']:.3f} / {scores['ssim']:.4f}" for scores in sets}
        quoted = re.findall(r"\d+\.\d{3} / 0\.\d{4}", row[0])
        assert quoted and set(quoted) <= known, row[0]
        assert f"| {entry['parameters']:,} |" in row[0]
    missing = {name for name, entry in INDEX.items() if entry["task"] == "sr"} - {row[1] for row in rows}
    assert rows and (page == "README.md" or not missing)


@pytest.fixture
def zoo(tmp_path, photos, monkeypatch):
    """A checkout with a zoo of one tiny network, two small data sets, and a card without scores."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photos, tmp_path / "datasets/Set5/HR")
    (tmp_path / "datasets/photos").mkdir()
    shutil.copy(photos / "coffee.png", tmp_path / "datasets/photos")
    torch.manual_seed(0)
    net = build_network(TINY_CATANET)
    net(torch.rand(2, 3, 16, 16))  # sets its token centres, as training does
    save_atomically({"params": net.state_dict(), "network_g": TINY_CATANET}, f"pretrained_models/{NAME}.pth")
    save_atomically({"params": net.state_dict()}, "pretrained_models/x2.pth")  # of a user
    shutil.copy(f"pretrained_models/{NAME}.pth", "pretrained_models/CATANet-XS-D_x4_AID.pth")  # of a user
    Path(f"pretrained_models/{NAME}.md").write_text(
        "Scores:\n\n<!-- scores: here -->\nold\n<!-- end of scores -->\n\nEnd.\n"
    )
    specs = {name: {"type": f"calculate_{name}", "crop_border": 2, "test_y_channel": True} for name in ("psnr", "ssim")}
    sets = [{"name": name, "type": "PairedImageDataset", "dataroot_gt": root}
            for name, root in (("Set5", "datasets/Set5/HR"), ("photos_test", "datasets/photos"))]  # fmt: skip
    options = {
        "name": f"test_{NAME}", "scale": 2, "num_gpu": 0, "network_g": TINY_CATANET,
        "datasets": {"test_1": sets[0], "test_2": sets[1]},
        "path": {"pretrain_network_g": f"pretrained_models/{NAME}.pth"},
        "val": {"metrics": specs, "pbar": False},
    }  # fmt: skip
    Path("options/test/zoo").mkdir(parents=True)
    Path(f"options/test/zoo/test_{NAME}.yml").write_text(yaml.safe_dump(options))
    return tmp_path


@pytest.fixture
def zoo_test(zoo, script, capsys):
    """Runs the script in the small checkout; returns its exit code and output."""

    def zoo_test(*arguments):
        code = script.main([*arguments, "--root", str(zoo)])
        return code, capsys.readouterr().out

    return zoo_test


def change(path, old, new):
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new))


def test_a_new_member_takes_one_command(zoo_test):
    code, text = zoo_test()
    assert (code, "has no entry in pretrained_models/zoo.json; add it with --update" in text) == (1, True)
    code, text = zoo_test("--update", NAME)
    assert (code, text.splitlines()[-1]) == (0, "8 of 8 scores of 1 networks agree")
    entry = json.loads(Path("pretrained_models/zoo.json").read_text())[NAME]
    assert (entry["scale"], entry["task"], entry["sha256"]) == (2, "sr", sha256_of(f"pretrained_models/{NAME}.pth"))
    psnr = entry["scores"]["Set5"]["uint8, Y, crop 2"]["psnr"]
    head, *rows = Path(f"pretrained_models/{NAME}.md").read_text().splitlines()[3:7]
    assert head.startswith("| set | PSNR (uint8, Y, crop 2) | SSIM (uint8, Y, crop 2) | PSNR (float, Y, crop 2) |")
    assert rows[1].startswith(f"| Set5 | {psnr:.3f} | ") and rows[2].startswith("| photos_test | ")
    assert Path(f"pretrained_models/{NAME}.md").read_text().endswith("<!-- end of scores -->\n\nEnd.\n")

    before = Path("pretrained_models/zoo.json").read_text()
    assert zoo_test()[0] == 0  # again: it repeats
    for difference, agrees in ((0.004, True), (0.006, False)):
        Path("pretrained_models/zoo.json").write_text(before)
        change("pretrained_models/zoo.json", f'"psnr": {psnr},', f'"psnr": {psnr + difference:.4f},')
        code, text = zoo_test()
        assert (code, "| differs, tolerance 0.005 |" in text) == ((0, False) if agrees else (1, True))


def test_a_set_with_an_unreadable_image_has_no_scores(zoo_test, zoo):
    assert zoo_test("--update")[0] == 0
    before = Path("pretrained_models/zoo.json").read_text()
    damage_pixels(zoo / "datasets/Set5/HR/coffee.png")
    for flags in ([], ["--update"]):
        code, text = zoo_test(*flags)
        assert code == 1 and f"wrong: {NAME}: Set5: datasets/Set5/HR/coffee.png: cannot be decoded" in text
        assert "| Set5 |" not in text and "4 of 4 scores of 1 networks agree" in text
    assert Path("pretrained_models/zoo.json").read_text() == before


def test_what_is_wrong_is_named(zoo_test, zoo):
    assert zoo_test("--update")[0] == 0
    text = Path("pretrained_models/zoo.json").read_text()
    count, digest = (json.loads(text)[NAME][key] for key in ("parameters", "sha256"))
    change("pretrained_models/zoo.json", f'"parameters": {count}', '"parameters": 1')
    change("pretrained_models/zoo.json", digest, "0" * 64)
    change("pretrained_models/zoo.json", '"photos_test"', '"Set14"')
    code, text = zoo_test()
    assert code == 1
    assert f"wrong: {NAME}: parameters is {count}, pretrained_models/zoo.json says 1" in text
    assert f"wrong: {NAME}: sha256 is {digest}" in text
    assert f"wrong: {NAME}: photos_test, float, Y, crop 2, psnr is measured, but not in" in text
    assert f"wrong: {NAME}: Set14, float, Y, crop 2, psnr is in pretrained_models/zoo.json, but no option file" in text


def test_a_member_twice_in_the_index_is_refused(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "INDEX", tmp_path / "zoo.json")
    (tmp_path / "zoo.json").write_text('{"A": {"scale": 2}, "A": {"scale": 4}}')
    with pytest.raises(ValueError, match=r"zoo\.json: has two entries 'A'; remove one"):
        script.read_index()


def test_data_that_are_not_there_are_skipped(zoo_test):
    assert zoo_test("--update")[0] == 0
    shutil.rmtree("datasets/Set5")
    before = Path("pretrained_models/zoo.json").read_text()
    code, text = zoo_test()
    assert (code, text.splitlines()[-1]) == (0, "4 of 4 scores of 1 networks agree")
    assert f"skipped, no data: {NAME}: " in text and "datasets/Set5/HR" in text
    assert zoo_test("--require-data")[0] == 1
    assert zoo_test("--update")[0] == 1
    assert Path("pretrained_models/zoo.json").read_text() == before  # scores of other weights would stay in it


def test_refusals(zoo, refused):
    assert refused("x2", "--root", zoo).startswith(f"x2: is no member of the zoo; there are {NAME}")
    path = f"options/test/zoo/test_{NAME}.yml"
    change(path, f"pretrained_models/{NAME}.pth", "pretrained_models/x2.pth")
    assert f"must be pretrained_models/{NAME}.pth, which this file tests" in refused("--root", zoo)
    Path(path).unlink()
    assert f"test_{NAME}.yml" in refused("--root", zoo)
    Path("pretrained_models/zoo.json").write_text("{")
    assert refused("--root", zoo).startswith("pretrained_models/zoo.json: is no JSON file")
