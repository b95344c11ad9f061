"""The same weights twice, and scores that depend on the images and the weights alone."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from reliability.runs import ROOT, TINY, Run, options

import basicsr.test
import basicsr.train
from basicsr.archs import build_network
from basicsr.config.load import load_options, resolve
from basicsr.data.loaders import build_test_loader
from basicsr.engine.checkpoint import save_atomically
from basicsr.engine.device import repeat_exactly
from basicsr.engine.distributed import get_dist_info
from basicsr.images.files import read_image
from basicsr.metrics.evaluate import evaluate
from basicsr.metrics.psnr_ssim import calculate_psnr, calculate_psnr_pt, calculate_ssim
from basicsr.models import build_model

pytestmark = pytest.mark.filterwarnings("ignore:Unable to enable fault handler")
# Between numbers of threads, the order of float32 sums differs, and with it the group of a pixel at a near-tie.
THREADS_DB = 0.002
METRICS = {
    "psnr": {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": True},
    "ssim": {"type": "calculate_ssim", "crop_border": 2, "test_y_channel": True},
}


@pytest.fixture
def exactly():
    """`deterministic: true`, and back."""
    yield repeat_exactly()
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


def test_deterministic_runs_give_the_same_weights_twice(tmp_path, monkeypatch, exactly):
    values = options(
        tmp_path,
        4,
        deterministic=True,
        datasets={"train": {"num_worker_per_gpu": 2}},
        train={"ema_decay": 0.9, "accum_iter": 2},
    )
    results = []
    for name in ("first", "second"):
        torch.use_deterministic_algorithms(False)  # the option turns it on
        run = Run(tmp_path / name, values)
        monkeypatch.chdir(run.folder)
        assert basicsr.train.main(["-opt", "run.yml"]) == 0
        assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark and "CUBLAS_WORKSPACE_CONFIG" in os.environ
        results.append(run.result())
    assert results[0] == results[1]


def test_without_a_repeatable_form_an_operation_is_refused(exactly):
    with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
        torch.zeros(4).put_(torch.tensor([0, 0]), torch.ones(2))


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """Runs `basicsr-test` on five images with a network in a folder of its own; returns scores.json and the folder."""
    folder = tmp_path_factory.mktemp("tested")
    values = options(folder)
    torch.manual_seed(0)
    net = build_network(TINY)
    net(torch.rand(2, 3, 16, 16))  # sets its token centres, as training does
    save_atomically({"params": net.state_dict()}, folder / "net.pth")
    images = {"name": "Images", "type": "PairedImageDataset", "dataroot_gt": str(folder / "images")}
    values |= {
        "datasets": {"test": images},
        "path": {"pretrain_network_g": str(folder / "net.pth")},
        "val": {"metrics": METRICS, "save_img": True},
    }
    del values["train"]
    (folder / "run.yml").write_text(yaml.safe_dump(values))

    def tested(name, *changes, processes=1, threads=1):
        here = folder / name
        here.mkdir()
        argv = ["-opt", str(folder / "run.yml"), "--force_yml", f"path.results_root={here}", *changes]
        if processes == 1:
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            assert basicsr.test.main(argv) == 0
            torch.set_num_threads(before)
        else:
            env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
            script = str(ROOT / "basicsr" / "test.py")
            done = subprocess.run([*launcher, script, *argv], env=env, capture_output=True, text=True, timeout=200)
            assert done.returncode == 0, done.stderr
        return json.loads((here / "run" / "scores.json").read_text())["Images"], here / "run"

    return tested


@pytest.fixture(scope="module")
def scored(tested):
    return tested("plain")


@pytest.mark.slow
def test_workers_and_processes_change_no_score(tested, scored):
    plain, _ = scored
    assert len(plain["per_image"]) == 5 and len(plain["mean"]) == 4  # both protocols
    assert tested("workers", "datasets.test.num_worker_per_gpu=2")[0] == plain
    assert tested("processes", processes=2)[0] == plain


def test_threads_change_scores_by_float_noise_at_most(tested, scored):
    two, _ = tested("threads", threads=2)
    for name, scores in scored[0]["per_image"].items():
        for metric, value in scores.items():
            tolerance = THREADS_DB if "psnr" in metric else THREADS_DB / 10
            assert two["per_image"][name][metric] == pytest.approx(value, abs=tolerance)


def test_the_order_of_images_changes_no_score():
    assert get_dist_info() == (0, 1)
    torch.manual_seed(0)
    net = build_network(TINY).eval()
    batches = [
        {
            "lq": torch.rand(1, 3, 9 + k, 14),
            "gt": torch.rand(1, 3, 18 + 2 * k, 28),
            "lq_path": [f"{k}.png"],
            "gt_path": [f"{k}.png"],
        }
        for k in range(4)
    ]
    forward, backward = (evaluate(net, order, METRICS, "x") for order in (batches, batches[::-1]))
    assert forward.per_image == backward.per_image
    for metric, value in forward.mean().items():
        assert backward.mean()[metric] == pytest.approx(value, rel=1e-14)  # the order of a float64 sum


def test_scores_can_be_repeated_from_the_saved_images(scored):
    scores, folder = scored
    for name, found in scores["per_image"].items():
        saved = read_image(folder / "visualization" / "Images" / f"{name}_run.png")
        gt = read_image(folder.parents[1] / "images" / f"{name}.png")[: saved.shape[0], : saved.shape[1]]
        how = {"crop_border": 2, "test_y_channel": True}
        assert calculate_psnr(saved, gt, **how) == pytest.approx(found["psnr"], rel=1e-12)
        assert calculate_ssim(saved, gt, **how) == pytest.approx(found["ssim"], rel=1e-12)


def test_rounding_to_8_bits_moves_a_score_by_no_more_than_half_a_level(scored):
    scores, folder = scored
    opt = resolve(load_options(folder.parents[1] / "run.yml", is_train=False))
    with build_model(opt).predictor() as predict:
        for batch in build_test_loader(opt, "test"):
            saved = scores["per_image"][Path(batch["gt_path"][0]).stem]["psnr"]
            clamped = predict(batch["lq"]).clamp(0, 1)
            unrounded = float(calculate_psnr_pt(clamped, batch["gt"], crop_border=2, test_y_channel=True))
            # Rounding moves no channel by over half a level, and Y, whose weights sum to 219 / 255, by less.
            root = [255 * 10 ** (-value / 20) for value in (saved, unrounded)]
            assert abs(root[0] - root[1]) < 0.5 * 219 / 255 + 1e-3
            assert abs(saved - unrounded) < 0.02  # which is much less, for errors of rounding are not in step


def test_the_script_gives_the_scores_of_the_test_run(scored, tmp_path):
    scores, folder = scored
    script = runpy.run_path(str(ROOT / "scripts/metrics/calculate_psnr_ssim.py"))
    paths = {"--gt": folder.parents[1] / "images", "--restored": folder / "visualization" / "Images"}
    # In this process, for a function of a script that is no module cannot travel to others.
    pairs, warnings = script["match"](
        [f"{name}.png" for name in scores["per_image"]], [path.name for path in paths["--restored"].iterdir()]
    )
    assert not warnings
    protocol = script["Protocol"](True, 2, 2)
    for gt, restored in pairs:
        pair = script["Pair"](Path(gt).stem, paths["--gt"] / gt, paths["--restored"] / restored, [protocol], 2)
        found = script["score"](pair).scores
        expected = scores["per_image"][Path(gt).stem]
        assert np.allclose([found[f"{m} {protocol}"] for m in METRICS], [expected[m] for m in METRICS], rtol=1e-12)
