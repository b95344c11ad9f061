import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from basicsr.archs import build_network
from basicsr.config.load import load_options
from basicsr.engine.checkpoint import save_atomically
from basicsr.images.files import list_images, read_image, write_image
from basicsr.inference.tasks import PUBLISHED as PUBLISHED_WEIGHTS
from basicsr.inference.tasks import TASKS
from basicsr.metrics import both_protocols, describe

SCRIPT = "check_published.py"
OPTIONS = Path(__file__).parents[2] / "options/test"
PUBLISHED = sorted(
    [path for folder in ("sr", "denoising", "jpegcar") for path in OPTIONS.glob(f"{folder}/[0-9]*.yml")]
    + [OPTIONS / f"test_CATANet_{name}.yml" for name in ("x2", "x3", "x4", "M_x2", "S_x2")]
)
COUNTS = {"Set5": 5, "Set14": 14, "B100": 100, "Urban100": 100, "Manga109": 109}
TINY = {"type": "CATANet", "upscale": 2, "dim": 16, "block_num": 1, "qk_dim": 12, "mlp_dim": 16, "heads": 2,
        "patch_size": [8], "num_tokens": [4], "group_size": [64], "n_iters": 2}  # fmt: skip
CATANET_X2 = {"Set5": (38.28, 0.9617), "Set14": (33.99, 0.9217), "B100": (32.37, 0.9023), "Urban100": (33.09, 0.9372),
              "Manga109": (39.37, 0.9784)}  # fmt: skip


@pytest.fixture
def options(tmp_path):
    """Writes an option file of a test run, with the means of its data sets as scores; returns the file."""

    def options(
        name="test_CATANet_x2", means=CATANET_X2, network=TINY, file=None, counts=COUNTS, metrics="_pt", **keys
    ):
        crop = {"crop_border": network["upscale"], "test_y_channel": True}
        specs = {kind: {"type": f"calculate_{kind}{metrics}", **crop} for kind in ("psnr", "ssim")}
        data = {"type": "PairedImageDataset", "dataroot_gt": "somewhere"}
        tree = {
            "name": name,
            "scale": network["upscale"],
            "network_g": network,
            "datasets": {f"test_{k}": {**data, "name": set_name} for k, set_name in enumerate(means)},
            "path": {"results_root": str(tmp_path / "results"), "pretrain_network_g": "x.pth"},
            "val": {"metrics": specs, **keys},
        }
        path = tmp_path / f"{file or name}.yml"
        path.write_text(yaml.safe_dump(tree))
        content = {set_name: scores(specs, values, counts.get(set_name, 5)) for set_name, values in means.items()}
        target = tmp_path / "results" / name / "scores.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(content))
        return path

    return options


def scores(specs, values, count):
    """As test.py writes them: metrics in the protocol of `specs` have `values`, those in the other are far off."""
    both = both_protocols(specs)
    by_kind = dict(zip(("psnr", "ssim"), values, strict=False))
    mean = {name: by_kind.get(name, 7.0) for name in both}
    protocols = {name: describe(spec) for name, spec in both.items()}
    return {"protocols": protocols, "mean": mean, "per_image": {str(k): mean for k in range(count)}}


def test_the_page_is_current(script):
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run scripts/check_published.py --write-page"
    assert "| `103_ATD_light_SRx4_finetune` | 32.59/0.8997 | 28.96/0.7895 |" in script.page()


def test_some_numbers_as_the_papers_print_them(script):
    found = {(row.name, row.network, row.self_ensemble): row for row in script.rows()}
    assert len(found) == len(script.rows()) == 6 + 6 + 3 + 3 + 4 + 7

    def values(name, network, dataset, ensemble=False):
        return tuple(found[name, network, ensemble].values[dataset].values())

    assert values("103_ATD_light_SRx4_finetune", "ATD v1", "Urban100") == (26.97, 0.8107)
    assert values("103_ATD_light_SRx4_finetune", "ATD v2", "Urban100") == (27.04, 0.8127)
    assert values("001_ATD_SRx2_finetune", "ATD v2", "Manga109") == (40.51, 0.9814)
    assert values("202_ATD_U_denoising_color_sigma25", "ATD-U", "McMaster") == (33.47,)
    assert values("302_ATD_U_denoising_gray_sigma25", "ATD-U", "BSD68") == (29.56,)
    assert values("404_ATD_U_jpegcar_gray_q40", "ATD-U", "LIVE1") == (34.69, 0.9321)
    assert values("test_CATANet_x4", "CATANet", "B100", ensemble=True) == (27.80, 0.7437)
    assert "Manga109" not in found["test_CATANet_S_x2", "CATANet", False].values


def test_what_inference_calls_published_is_what_has_results(script):
    published = (task for task in TASKS.values() if task.folder == PUBLISHED_WEIGHTS)
    files = {file for task in published for file in task.files.values()}
    assert files == {row.name for row in script.rows() if row.network != "CATANet"}


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_every_published_option_file_tests_what_the_paper_prints(script, tmp_path, capsys, path):
    opt = load_options(path, is_train=False)
    row = script.published_row(opt)
    counts = script._source()["images"]
    sets = {entry.name: script.same_set(entry.name) for entry in opt.datasets.values()}
    content = {
        name: scores(opt.val.metrics, row.values[published].values(), counts[published])
        for published in row.values
        for name, spelling in sets.items()
        if spelling == script.same_set(published)
    }
    (tmp_path / "scores.json").write_text(json.dumps(content))
    assert script.main(["-opt", str(path), "--scores", str(tmp_path / "scores.json")]) == 0
    text = capsys.readouterr().out
    number = sum(len(values) for values in row.values.values())
    assert f"{number} of {number} numbers agree, on {len(row.values)} of {len(row.values)} published sets" in text


def test_a_run_that_reproduces_the_paper(script, options, capsys):
    ours = {**CATANET_X2, "Set5": (38.2749, 0.96214)}
    assert script.main(["-opt", str(options(means=ours))]) == 0
    text = capsys.readouterr().out
    assert text.startswith("test_CATANet_x2, CATANet\n")
    assert "| Set5 | PSNR | 38.28 | 38.2749 | -0.0051 | agrees |" in text
    assert "| Set5 | SSIM | 0.9617 | 0.962140 | +0.000440 | agrees |" in text
    assert text.endswith("10 of 10 numbers agree, on 5 of 5 published sets\n")


@pytest.mark.parametrize(
    "psnr, ssim, arguments, code",
    [
        (38.27, 0.9617, [], 0),
        (38.2699, 0.9617, [], 1),
        (38.2901, 0.9617, [], 1),
        (38.28, 0.9622, [], 0),
        (38.28, 0.96111, [], 1),
        (38.20, 0.9617, ["--tolerance", "0.1"], 0),
        (38.28, 0.96111, ["--tolerance-ssim", "0.001"], 0),
        ("nan", 0.9617, [], 1),
        ("inf", 0.9617, [], 1),
    ],
)
def test_the_tolerance_decides(script, options, capsys, psnr, ssim, arguments, code):
    path = options(means={"Set5": (psnr, ssim)})
    assert script.main(["-opt", str(path), *arguments]) == code
    text = capsys.readouterr().out
    assert f"{2 - code} of 2 numbers agree, on 1 of 5 published sets" in text
    assert ("differs, tolerance" in text) == bool(code)
    assert "Manga109: is published, but was not tested" in text


@pytest.mark.parametrize(
    "name, known",
    [("BSD100", "B100"), ("bsds100", "B100"), ("B100_x4", "B100"), ("CBSD68HQ", "CBSD68"), ("Kodak24HQ", "Kodak24"),
     ("Kodak", "Kodak24"), ("McMaster_HQ", "McMaster"), ("classic5", "Classic5"), ("Classic5_HQ", "Classic5"),
     ("LIVE1_HQ", "LIVE1"), ("Urban100HQ", "Urban100"), ("MANGA109-x2", "Manga109"), ("Set5", "Set5")],
)  # fmt: skip
def test_names_of_one_set(script, name, known):
    assert script.same_set(name) == script.same_set(known)


def test_different_sets_stay_different(script):
    names = list(script._source()["images"])
    assert len({script.same_set(name) for name in names}) == len(names) == 12


def test_other_names_of_files_and_sets(script, options, capsys):
    path = options(name="mine", file="test_CATANet_x2", means={"BSD100": (32.37, 0.9023)}, counts={"BSD100": 100})
    assert script.main(["-opt", str(path)]) == 0
    assert "| B100 | PSNR | 32.37 | 32.3700 | +0.0000 | agrees |" in capsys.readouterr().out
    assert script.main(["-opt", str(options(file="mine"))]) == 0


def test_the_network_chooses_between_versions(script, options, capsys):
    ours = {"Urban100": (26.97, 0.8107)}
    light = {"type": "ATD-v1-light", "upscale": 4}
    path = options(name="103_ATD_light_SRx4_finetune", means=ours, network=light, metrics="")
    assert script.main(["-opt", str(path)]) == 0
    assert "ATD v1" in capsys.readouterr().out
    assert script.main(["-opt", str(path), "--force_yml", "network_g:type=ATD-light"]) == 1
    assert "| Urban100 | PSNR | 27.04 | 26.9700 | -0.0700 | differs, tolerance 0.01 |" in capsys.readouterr().out


def test_self_ensemble_has_rows_of_its_own(script, options, capsys):
    path = options(means={"Set5": (38.35, 0.9620)}, self_ensemble=True)
    assert script.main(["-opt", str(path)]) == 0
    assert "self-ensemble" in capsys.readouterr().out


def test_sets_that_cannot_be_compared_are_named(script, options, capsys):
    ours = {**CATANET_X2, "DIV2K": (30, 0.9), "Set5_x2": (1, 1)}
    path = options(means=ours, counts={**COUNTS, "Set14": 13})
    assert script.main(["-opt", str(path)]) == 0
    text = capsys.readouterr().out
    assert "DIV2K: has scores, but none are published of test_CATANet_x2" in text
    assert "Set5_x2: is Set5 once more; Set5 is compared" in text
    assert "Set14: has 13 images, the published set 14; it is not compared" in text
    assert "8 of 8 numbers agree, on 4 of 5 published sets" in text


def test_data_that_were_made_otherwise_are_not_compared(script, tmp_path, capsys):
    path = tmp_path / "401_ATD_U_jpegcar_gray_q10.yml"
    data = {"type": "Dataset_JPEGCAR", "dataroot_gt": "somewhere", "in_ch": 1}
    tree = {
        "name": "mine",
        "scale": 1,
        "network_g": {"type": "ATD-U", "in_chans": 1},
        "datasets": {
            "test_1": {**data, "name": "Classic5", "quality_factor": 20},
            "test_2": {**data, "name": "LIVE1", "quality_factor": 10},
            "test_3": {**data, "name": "Urban100", "quality_factor": 10},
        },
    }
    path.write_text(yaml.safe_dump(tree))
    specs = {"psnr": {"type": "calculate_psnr_pt", "crop_border": 0}, "ssim": {"type": "calculate_ssim"}}
    content = {
        "Classic5": scores(specs, (30.34, 0.8264), 5),
        "LIVE1": scores(specs, (29.91, 0.8304), 29),
        "Urban100": scores(specs, (30.88, 0.8882), 100),
    }
    (tmp_path / "scores.json").write_text(json.dumps(content))
    assert script.main(["-opt", str(path), "--scores", str(tmp_path / "scores.json")]) == 0
    text = capsys.readouterr().out
    assert "Classic5: quality_factor is 20, published 10; it is not compared" in text
    assert "Urban100: gray is None, published swapped_luma; it is not compared" in text
    assert "2 of 2 numbers agree, on 1 of 3 published sets" in text


def test_another_protocol_is_not_compared(script, options, refused):
    path = options(means={"Set5": (38.28, 0.9617)})
    scores_file = path.parent / "results/test_CATANet_x2/scores.json"
    scores_file.write_text(scores_file.read_text().replace("crop 2", "crop 4"))
    assert refused("-opt", path) == "nothing can be compared"


def test_what_is_missing_is_named(script, options, capsys):
    path = options(means={"Set5": (38.28, 0.9617)})
    scores_file = path.parent / "results/test_CATANet_x2/scores.json"
    content = json.loads(scores_file.read_text())
    del content["Set5"]["protocols"]["ssim"]
    scores_file.write_text(json.dumps(content))
    assert script.main(["-opt", str(path)]) == 0
    text = capsys.readouterr().out
    assert "Set5: has no SSIM of protocol float, Y, crop 2; it has psnr (float, Y, crop 2), psnr_uint8 (uint8" in text
    assert "1 of 1 numbers agree" in text


def test_a_test_that_is_run_first(script, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in list_images(photos):
        write_image(f"images/{name}", np.ascontiguousarray(read_image(photos / name)[40:80, 40:80]))
    save_atomically({"params": build_network(TINY).state_dict()}, "tiny.pth")
    metric = {"type": "calculate_psnr_pt", "crop_border": 2, "test_y_channel": True}
    tree = {
        "name": "test_CATANet_x2",
        "scale": 2,
        "num_gpu": 0,
        "network_g": TINY,
        "datasets": {"test_1": {"name": "Set5", "type": "PairedImageDataset", "dataroot_gt": "images"}},
        "path": {"pretrain_network_g": "tiny.pth"},
        "val": {"metrics": {"psnr": metric}, "save_img": False},
    }
    Path("test_CATANet_x2.yml").write_text(yaml.safe_dump(tree))
    torch.manual_seed(0)
    assert script.main(["-opt", "test_CATANet_x2.yml", "--run"]) == 1
    text = capsys.readouterr().out
    mean = json.loads(Path("results/test_CATANet_x2/scores.json").read_text())["Set5"]["mean"]["psnr"]
    assert f"| Set5 | PSNR | 38.28 | {mean:.4f} | {mean - 38.28:+.4f} | differs, tolerance 0.01 |" in text
    assert "Set5: has no SSIM of protocol float, Y, crop 2" in text


def test_refusals(script, options, refused):
    path = options()
    assert refused() == "-opt is missing"
    assert refused("-opt", path, "--run", "--scores", "x.json").startswith("--run makes new scores")
    assert refused("-opt", path, "--tolerance", "nan") == "tolerances must be numbers of at least 0"
    assert refused("-opt", path, "--force_yml", "val:self_ensemble=maybe").startswith("--force_yml")
    assert "x.json: no such file; run `python basicsr/test.py -opt" in refused("-opt", path, "--scores", "x.json")
    strange = path.with_name("strange.json")
    strange.write_text("{")
    assert "is no JSON file" in refused("-opt", path, "--scores", strange)
    strange.write_text('{"Set5": 38.28}')
    assert "does not look like the scores of a test run" in refused("-opt", path, "--scores", strange)
    unknown = options(name="mine")
    assert "nothing is published under its name; published_results.md lists" in refused("-opt", unknown)
    other = options(name="001_ATD_SRx2_finetune")
    assert "is published of ATD v1 and ATD v2, its network is CATANet" in refused("-opt", other)
    ensemble = options(name="test_CATANet_S_x2", self_ensemble=True)
    assert "is not published with self-ensemble; set val.self_ensemble: false" in refused("-opt", ensemble)
