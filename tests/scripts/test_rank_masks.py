import csv
import json
import logging
import math
import os
import re
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
import yaml

from basicsr.archs import build_network
from basicsr.config.load import load_options
from basicsr.data import build_dataset
from basicsr.engine.checkpoint import save_atomically
from basicsr.engine.run import join_processes
from basicsr.images.files import list_images, read_image, to_pixels, write_image
from basicsr.metrics import calculate_metric
from basicsr.pruning.report.mask_plots import rank_correlation
from basicsr.pruning.report.read import read_run
from basicsr.train import train

SCRIPT = "rank_masks.py"
TEACHER = {"type": "CATANet", "upscale": 2, "dim": 16, "block_num": 4, "qk_dim": 12, "mlp_dim": 16, "heads": 2,
           "patch_size": [8, 10, 8, 10], "num_tokens": [4, 8, 4, 8], "group_size": [64, 32, 64, 32],
           "n_iters": 2}  # fmt: skip
MASKS = ["1100", "1010", "1001", "0110", "0101", "0011"]
LOGITS = [0.5, 1.0, -0.5, 0.5, 0.0, 2.0]
PSNR = {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": True}
SSIM = {**PSNR, "type": "calculate_ssim"}
SCHEDULE = {"type": "CosineAnnealingRestartLR", "periods": [30, 20], "restart_weights": [1, 0.5], "eta_min": 1e-6}


@pytest.fixture(scope="module")
def world(photos, tmp_path_factory):
    """A folder with images, a teacher, options of a search and the report of one that has ended. Do not write to it."""
    root = tmp_path_factory.mktemp("world")
    for name in list_images(photos)[:2]:
        write_image(root / "images" / name, read_image(photos / name)[30:94, 20:90].copy())
    torch.manual_seed(1)
    net = build_network(TEACHER)
    with torch.no_grad():
        for group, conv in enumerate(net.mid_convs):
            conv.weight *= 4 + group  # so that masks differ in PSNR
    net.train()(torch.rand(2, 3, 16, 16))  # sets the token centres
    save_atomically({"params": net.state_dict()}, root / "teacher.pth")
    options = options_of(root)
    (root / "search.yml").write_text(yaml.safe_dump(options))
    (root / "search").mkdir()
    report = {
        "mask": [1, 0, 1, 0],
        "options": {"prune": options["prune"]},
        "logits": {"logits": LOGITS, "choices": [[int(bit) for bit in mask] for mask in MASKS]},
    }
    (root / "search/prune_report.json").write_text(json.dumps(report))
    return root


def options_of(root):
    images = {"type": "PairedImageDataset", "dataroot_gt": str(root / "images")}
    return {
        "name": "search", "model_type": "PruneDistillModel", "scale": 2, "num_gpu": 0, "manual_seed": 3,
        "datasets": {"train": {**images, "gt_size": 32, "batch_size_per_gpu": 2}, "val": {**images, "name": "Photos"}},
        "network_g": TEACHER, "network_t": TEACHER,
        "path": {"pretrain_network_g": str(root / "teacher.pth"), "pretrain_network_t": str(root / "teacher.pth")},
        "prune": {"stage": "search", "sampler": "subset"},
        "budget": {"blocks": 2},
        "kd": {"sa": {"anchors": 20}},  # rows drawn at random in every step
        "train": {"total_iter": 9, "optim_g": {"type": "Adam", "lr": 1e-4}, "optim_m": {"type": "Adam", "lr": 0.1},
                  "pixel_opt": {"type": "L1Loss"}, "grad_clip": 0.5},
        "val": {"metrics": {"psnr": PSNR, "ssim": SSIM}},
        "compact": {"finetune": {"total_iter": 50, "warmup_iter": 1, "optim_g": {"type": "Adam", "lr": 2e-3},
                                 "scheduler": SCHEDULE}},
    }  # fmt: skip


@pytest.fixture
def run(script, world, tmp_path, capsys):
    """Runs the script on `world`, checks that all files exist, and returns the rows of the CSV file by their mask."""
    torch.set_num_threads(1)

    def run(*arguments, name="ranks"):
        path = tmp_path / f"{name}.csv"
        command = ["-opt", world / "search.yml", "-o", path, *arguments]
        assert script.main([str(argument) for argument in command]) == 0
        assert path.with_suffix(".md").read_text() in capsys.readouterr().out
        assert {file.suffix for file in tmp_path.glob(f"*{name}.*")} == {".csv", ".json", ".md"}
        return read(path)

    return run


@pytest.fixture
def measure(script):
    """The part of the script that measures."""
    return sys.modules["mask_ranking.measure"]


def read(path):
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = {row["mask"]: row for row in reader}
        assert reader.fieldnames[:5] == ["mask", "kept", "zero_shot_psnr", "recovered_psnr", "p"]
    assert list(rows) == MASKS
    return rows


def recovered(rows):
    return {mask: float(row["recovered_psnr"]) for mask, row in rows.items() if row["recovered_psnr"]}


def line_of(text, name):
    """Cells of a row of the table in a summary."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_zero_shot_is_the_masked_teacher(run, world):
    rows = run("--zero-shot")
    net = build_network(TEACHER)
    net.load_state_dict(torch.load(world / "teacher.pth")["params"])
    dataset = build_dataset(options_of(world)["datasets"]["val"], scale=2, phase="val", seed=0)
    for mask, row in rows.items():
        scores = {"psnr": [], "ssim": []}
        for sample in dataset:
            with torch.inference_mode():
                sr = net.eval()(sample["lq"][None], gates=[int(bit) for bit in mask])
            pair = {"img": to_pixels(sr[0]), "img2": to_pixels(sample["gt"])}
            for name, spec in (("psnr", PSNR), ("ssim", SSIM)):
                scores[name].append(calculate_metric(pair, spec))
        assert float(row["zero_shot_psnr"]) == pytest.approx(sum(scores["psnr"]) / 2, abs=1e-3)
        assert float(row["zero_shot_ssim"]) == pytest.approx(sum(scores["ssim"]) / 2, abs=1e-5)
        assert row["kept"] == " ".join(str(i) for i in range(4) if mask[i] == "1")
        assert row["recovered_psnr"] == row["recovered_ssim"] == row["p"] == ""
    values = sorted(float(row["zero_shot_psnr"]) for row in rows.values())
    assert min(b - a for a, b in pairwise(values)) > 0.01  # no mask could pass for another


def test_recovery_is_a_fine_tuning_run(run, world, tmp_path, monkeypatch):
    rows = run("--recover", 2, "--masks", "1010", "0011", "--force_yml", "kd:sa:anchors=0")
    assert recovered(rows).keys() == {"1010", "0011"}
    options = options_of(world)
    small = {**TEACHER, "block_num": 2, "patch_size": 8, "num_tokens": 4, "group_size": 64}  # groups 0 and 2
    del options["path"]["pretrain_network_g"], options["budget"], options["compact"], options["train"]["optim_m"]
    options |= {
        "name": "tuned", "network_g": small, "kd": {}, "prune": {"stage": "finetune", "kept": [0, 2]},
        "train": {**options["train"], "total_iter": 2, "warmup_iter": 1, "optim_g": {"type": "Adam", "lr": 2e-3},
                  "scheduler": {"type": "CosineAnnealingRestartLR", "periods": [2], "eta_min": 1e-6}},
    }  # fmt: skip
    (tmp_path / "tuned.yml").write_text(yaml.safe_dump(options))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("basicsr"), "handlers", [])  # the run adds one for its file
    train(join_processes(load_options("tuned.yml", is_train=True), "none"))
    state = torch.load("experiments/tuned/training_states/2.state")
    for metric in ("psnr", "ssim"):
        best, iteration = state["best"]["Photos"][metric]
        assert iteration == 2 and float(rows["1010"][f"recovered_{metric}"]) == pytest.approx(best, abs=1e-6)


def test_summary_and_report(run, world, tmp_path):
    rows = run("--recover", 2, "--search", world / "search")
    psnr = recovered(rows)
    assert list(psnr) == MASKS and len(set(psnr.values())) == 6
    p = torch.tensor(LOGITS).softmax(0).tolist()
    assert [float(row["p"]) for row in rows.values()] == pytest.approx(p, rel=1e-5)

    text = (tmp_path / "ranks.md").read_text()
    order = sorted(MASKS, key=lambda mask: -psnr[mask])
    zero_shot = {mask: float(row["zero_shot_psnr"]) for mask, row in rows.items()}
    for name, mask in {"best": order[0], "median": order[3], "worst": order[5], "learned": "1010",
                       "uniform": "1001", "best zero-shot": max(MASKS, key=zero_shot.get)}.items():  # fmt: skip
        before = sorted(MASKS, key=lambda mask: -zero_shot[mask]).index(mask) + 1
        assert line_of(text, name)[:6] == [
            mask, rows[mask]["kept"].replace(" ", ", "), f"{zero_shot[mask]:.4f}", f"{before} of 6",
            f"{psnr[mask]:.4f}", f"{order.index(mask) + 1} of 6",
        ]  # fmt: skip
        assert line_of(text, name)[-1] == f"{psnr[order[0]] - psnr[mask]:.4f}"
    assert line_of(text, "learned")[6:8] == [f"{p[1]:.4f}", "2 of 6"]
    assert line_of(text, "uniform")[7] == "6 of 6"
    assert f"Regret of the learned mask in recovered PSNR: {psnr[order[0]] - psnr['1010']:.4f} dB." in text
    assert f"Mean recovered PSNR of 6 masks: {sum(psnr.values()) / 6:.4f} dB" in text
    squares = sum((order.index(mask) - sorted(MASKS, key=lambda m: -zero_shot[m]).index(mask)) ** 2 for mask in MASKS)
    rho = 1 - 6 * squares / (6 * 35)
    assert f"Spearman correlation of zero-shot PSNR and recovered PSNR, 6 masks: {rho:.3f}." in text
    assert "Spearman correlation of p and recovered PSNR, 6 masks:" in text

    (tmp_path / "ranks.csv").rename(tmp_path / "rank_masks.csv")
    (tmp_path / "prune_report.json").write_text((world / "search/prune_report.json").read_text())
    found = {mask.bits: mask for mask in read_run(tmp_path).masks}
    assert {bits: mask.recovered for bits, mask in found.items()} == psnr
    assert found["1010"].zero_shot == zero_shot["1010"] and found["1010"].p == pytest.approx(p[1], rel=1e-5)


def test_an_interrupted_run_goes_on(script, measure, run, world, tmp_path, monkeypatch):
    whole = run("--recover", 2, "--masks", "sample:2", "--search", world / "search", name="whole")
    assert {"1010", "1001"} <= recovered(whole).keys() and len(recovered(whole)) in (2, 3, 4)

    calls = []

    def stopping(*arguments, fine_tuned=measure.fine_tuned):
        calls.append(arguments[0].prune.kept)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fine_tuned(*arguments)

    monkeypatch.setattr(measure, "fine_tuned", stopping)
    with pytest.raises(KeyboardInterrupt):
        run("--recover", 2, "--masks", "sample:2", "--search", world / "search")
    assert len(recovered(read(tmp_path / "ranks.csv"))) == 1
    run("--zero-shot")  # does not change p and recovered scores
    assert len(calls) == 2
    monkeypatch.setattr(script, "CutTeacher", no_more_zero_shot(script.CutTeacher))
    rows = run("--recover", 2, "--masks", "sample:2", "--search", world / "search")
    assert len(calls) == 1 + len(recovered(whole)) and calls[2] == calls[1]
    assert (tmp_path / "ranks.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes() and rows == whole
    assert (tmp_path / "ranks.md").read_bytes() == (tmp_path / "whole.md").read_bytes()

    rows = run("--recover", 2)
    assert len(calls) == 1 + 6 and recovered(rows).items() >= recovered(whole).items()


def no_more_zero_shot(teacher):
    class Teacher(teacher):
        def keep(self, mask):
            raise AssertionError(f"{mask} is measured again")

    return Teacher


def test_other_settings_are_rejected(run, refused, world, tmp_path):
    arguments = ("-opt", world / "search.yml", "-o", tmp_path / "ranks.csv")
    run("--zero-shot")
    message = refused(*arguments, "--zero-shot", "--force_yml", "val:metrics:psnr:crop_border=3")
    assert message == (
        f"{tmp_path / 'ranks.csv'}: was made with other settings: zero_shot.val.metrics.psnr.crop_border was 2, "
        "is 3 now; name another file by -o, or delete it to measure again"
    )
    run("--recover", 2, "--masks", "1100")
    assert "recovered.iterations was 2, is 3 now" in refused(*arguments, "--recover", 3)
    changed = refused(*arguments, "--recover", 2, "--force_yml", "compact:finetune:optim_g:lr=0.1")
    assert "recovered.train.optim_g.lr was 0.002, is 0.1 now" in changed
    assert "masks was" in refused(*arguments, "--zero-shot", "--force_yml", "prune:force_keep=[0]")
    assert recovered(read(tmp_path / "ranks.csv")).keys() == {"1100"}

    text = (tmp_path / "ranks.csv").read_text()
    (tmp_path / "ranks.csv").write_text(text[: text.rindex(",")])
    assert "ranks.csv: is damaged, or no file of this script" in refused(*arguments, "--zero-shot")
    (tmp_path / "ranks.csv").write_text(text[: text.rindex("0011")])
    assert "ranks.csv: has lost or gained masks" in refused(*arguments, "--zero-shot")
    (tmp_path / "ranks.json").unlink()
    assert "ranks.csv: exists, but not ranks.json" in refused(*arguments, "--zero-shot")


def test_seeds_are_compared(run, refused, world, tmp_path):
    """Two rankings with other seeds, batches and patches given on the command line."""
    size = ("--recover", 2, "--batch", 1, "--patch", 12, "--search", world / "search")
    one = recovered(run(*size, "--seed", 1, name="one"))
    two = recovered(run(*size, "--seed", 2, name="two"))
    settings = json.loads((tmp_path / "one.json").read_text())["recovered"]
    assert settings["train_set"]["gt_size"] == 24
    assert "batch_size_per_gpu" not in settings["train_set"]  # 1 is the default
    assert (settings["manual_seed"], one != two) == (1, True)
    assert recovered(run(*size, "--seed", 1, "--seeds", tmp_path / "two.csv", name="one")) == one
    text = (tmp_path / "one.md").read_text()
    rho = rank_correlation(list(one.values()), list(two.values()))
    assert f"Spearman correlation of recovered PSNR in one.csv and two.csv, 6 masks: {rho:.3f}." in text
    mean = {mask: (one[mask] + two[mask]) / 2 for mask in MASKS}
    place = sorted(mean, key=lambda mask: -mean[mask]).index("1010") + 1
    regret = max(mean.values()) - mean["1010"]
    assert f"The learned mask is {place} of 6 in the mean over the seeds, {regret:.4f} dB below the best." in text

    arguments = ("-opt", world / "search.yml", "-o", tmp_path / "one.csv", *size, "--seed", 1, "--seeds")
    assert "one.csv: has the seed of" in refused(*arguments, tmp_path / "one.csv")
    assert "three.csv: no such file" in refused(*arguments, tmp_path / "three.csv")
    run("--recover", 2, "--masks", "1100", "--seed", 2, name="small")
    assert "made with other settings: recovered.train_set" in refused(*arguments, tmp_path / "small.csv")
    run("--zero-shot", name="untrained")
    assert "do not both have recovered masks" in refused(*arguments, tmp_path / "untrained.csv")


def test_a_ranking_is_told_from_noise(script):
    noise = sys.modules["mask_ranking.summary"]._noise
    masks = [f"{k:05b}" for k in range(20)]
    rng = np.random.default_rng(3)
    quality, shift = rng.normal(size=20), 5.0  # of all masks, which says nothing about their order
    shares = []
    for size in (0.0, 1.0, 3.0):
        seeds = {n: dict(zip(masks, size * quality + rng.normal(size=20) + n * shift, strict=True)) for n in (0, 1)}
        *_, text, _ = noise(seeds, masks[0])
        shares.append(float(re.search(r"Of rankings of noise alone, ([\d.]+) % differ as much", text).group(1)))
    assert shares[0] > 10 and shares[1] < 10 and shares[2] < 0.1
    (text,) = noise({"a": {"1": 2.0}, "b": {"1": 3.0}}, None)
    assert text == "Seeds: the files have 1 recovered masks in common, too few to compare."


def test_a_search_of_another_network_than_the_teacher_is_refused(refused, world, tmp_path):
    small = {**TEACHER, "block_num": 3, "patch_size": 8, "num_tokens": 4, "group_size": 64}
    options = {**options_of(world), "network_g": small}
    (tmp_path / "small.yml").write_text(yaml.safe_dump(options))
    message = refused("-opt", tmp_path / "small.yml", "-o", tmp_path / "ranks.csv", "--zero-shot")
    assert (
        "network_t: has 4 groups, but network_g 3; to rank the masks of network_g, make it the teacher, too" in message
    )


def test_latencies_are_those_of_the_search(script, world, tmp_path, monkeypatch):
    """Measured again, they could allow other masks."""
    monkeypatch.setattr("basicsr.pruning.costs.latency_table", None)
    report = {"resources": {"latency_ms": {"fixed": 1.0, "groups": [1.0, 2.0, 3.0, 1.0]}}}
    (tmp_path / "prune_report.json").write_text(json.dumps(report))
    options = options_of(world) | {"budget": {"latency_ms": 4.0}}
    (tmp_path / "x.yml").write_text(yaml.safe_dump(options))
    opt = load_options(tmp_path / "x.yml", is_train=True)
    latency = script.measured_latency(tmp_path)
    masks, _ = script.masks_within_budget(opt, build_network(TEACHER), torch.device("cpu"), latency)
    assert masks == ["1100", "1001", "0101", "0010"]


def test_settings_of_what_was_not_measured_do_not_bind(measure, run, world, tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(measure, "fine_tuned", stop)
        run("--recover", 3)
    assert len(recovered(run("--recover", 2, "--masks", "1100"))) == 1


def test_sample(script):
    ranking = [f"{k:06b}" for k in range(56)]
    assert script.chosen_masks(["all"], ranking, []) == ranking
    assert script.chosen_masks([ranking[9], ranking[2]], ranking, ranking[:1]) == [ranking[2], ranking[9]]
    places = [ranking.index(mask) for mask in script.chosen_masks(["sample:6"], ranking, [ranking[11], ranking[30]])]
    assert places == [0, 11, 22, 30, 33, 44, 55]
    assert script.chosen_masks(["sample:100"], ranking, []) == ranking


def test_uniform_mask(script):
    assert script.uniform_of(MASKS) == "1001"
    assert script.uniform_of(["110", "011"]) is None
    assert script.uniform_of(["0100", "1001", "0011"]) == "1001"


def test_spearman_by_hand():
    rho = rank_correlation
    assert rho([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert rho([10, -20, 30, 0], [7, 9, 1, 8]) == pytest.approx(-1)
    assert rho([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(math.sqrt(0.9))  # ranks 1, 2.5, 2.5, 4
    assert math.isnan(rho([1, 1, 1], [1, 2, 3]))


def test_all_masks_see_the_same_patches_and_draws(measure, world, monkeypatch):
    opt = load_options(world / "search.yml", is_train=True)
    teacher = measure.CutTeacher(opt)
    recovery = measure.Recovery(opt, teacher.whole, MASKS[0], 3)
    loader = measure.build_train_loader(recovery.base)
    seen = {}
    for mask in ("1100", "0101"):  # their networks draw unequally many numbers for their weights
        batches = seen[mask] = []

        class Model:
            def __init__(self, opt, draw=mask == "0101"):
                self.opt = opt
                torch.rand(5 if draw else 7)

            def feed_data(self, batch, batches=batches):
                batches.append((batch["gt_path"], batch["gt"], torch.rand(3)))

            def ignore(self, *arguments):
                pass

            update_learning_rate = optimize_parameters = check_finite = ignore

        monkeypatch.setattr(measure, "build_model", Model)
        measure.fine_tuned(recovery.options(mask), loader, lambda: None)
    assert len(seen["1100"]) == 3
    for (paths, gt, drawn), (other_paths, other_gt, other_drawn) in zip(*seen.values(), strict=True):
        assert paths == other_paths and torch.equal(gt, other_gt) and torch.equal(drawn, other_drawn)
    assert not torch.equal(seen["1100"][0][1], seen["1100"][1][1])


def test_recovery_keeps_the_tail_of_the_search(script, world):
    opt = load_options(world / "search.yml", ["prune:tail=direct", "prune:tail_warmup_iter=2"], is_train=True)
    teacher = script.CutTeacher(opt)
    options = script.Recovery(opt, teacher.whole, MASKS[0], 3).options("0011")
    assert options.network_g["tail"] == "direct" and options.prune.tail_warmup_iter == 2
    assert options.prune.kept == [2, 3] and options.network_g["num_tokens"] == [4, 8]
    assert options.path.pretrain_network_g is None


class TestUserErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "nothing to do; give --zero-shot or --recover N"),
            (["--recover", 0], "--recover must be at least 1, got 0"),
            (["--recover", 2, "--masks", "some"], "argument --masks: expected all, sample:M with M at least 2"),
            (["--recover", 2, "--masks", "sample:1"], "argument --masks: expected all, sample:M with M at least 2"),
            (
                ["--recover", 2, "--masks", "all", "1100"],
                "--masks takes all, sample:M or a list of masks, got all 1100",
            ),
            (["--recover", 2, "--masks", "1100", "1110"], "--masks 1110: must be among the 6 masks of 4 groups"),
            (["--zero-shot", "--search", "nowhere"], "nowhere/prune_report.json: no such file; name the folder"),
            (["--recover", 1], "--recover 1: must be above the 1 iterations of warm-up"),
            (["--zero-shot", "--force_yml", "budget:blocks=4"], "budget: leaves one mask, 1111"),
            (["--zero-shot", "--force_yml", "budget:params=10"], "no mask fits all limits"),
            (["--zero-shot", "--force_yml", "prune=~"], "prune: is missing; give the option file of a search"),
            (["--zero-shot", "--force_yml", "val:metrics={}"], "val.metrics: has no metric `psnr`"),
            (["--zero-shot", "--force_yml", "path:pretrain_network_t=~"], "path.pretrain_network_t: is missing"),
            (["--zero-shot", "--force_yml", "network_t={type: Bicubic, upscale: 2}"], "Bicubic"),
        ],
    )
    def test_arguments_and_options(self, refused, world, tmp_path, arguments, message):
        output = tmp_path / "ranks.csv"
        assert message in refused("-opt", world / "search.yml", "-o", output, *arguments)
        assert not os.listdir(tmp_path)

    def test_output(self, refused, world):
        assert refused("-opt", world / "search.yml", "--zero-shot", "-o", "x.txt") == "-o must end in .csv, got x.txt"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"logits": {"logits": LOGITS[:5], "choices": [[1, 0, 0, 0]] * 5}}, "does not fit the budget"),
            ({"mask": [1, 1, 1, 0]}, "chose 1110, which is not within the budget"),
            ({"options": {}}, "is no report of a search"),
            ({"options": {"prune": {"sampler": "none"}}}, "options.prune.sampler: expected"),
        ],
    )
    def test_report_of_another_search(self, refused, world, tmp_path, change, message):
        report = json.loads((world / "search/prune_report.json").read_text()) | change
        (tmp_path / "prune_report.json").write_text(json.dumps(report))
        assert message in refused("-opt", world / "search.yml", "--zero-shot", "--search", tmp_path)
        assert os.listdir(tmp_path) == ["prune_report.json"]
