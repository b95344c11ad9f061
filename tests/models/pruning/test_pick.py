"""`prune.pick: best_of_topk`: the most probable masks are tried at the end of a search, and the best one stays."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from helpers import damage_pixels, run_python, write_options
from models.prune_steps import run

import basicsr.train
from basicsr.config.pruning import PruneOptions
from basicsr.errors import OptionError
from basicsr.models import recovery
from basicsr.pruning.costs import Resource
from basicsr.pruning.pick import RECORD, most_probable, pick_mask
from basicsr.pruning.report.page import write_html
from basicsr.pruning.report.read import read_run

PICK = {"pick": "best_of_topk", "pick_topk": 3, "pick_iter": 3}
FINETUNE = {"finetune": {"total_iter": 3, "optim_g": {"type": "Adam", "lr": 3e-3}}}


@pytest.fixture
def values(search_values):
    """A search of a small CNN that tries three masks, without recalibration, whose batches fine-tuning does not see."""

    def values(which="cnn", **sections):
        prune = {"warmup_iter": 1, "search_iter": 2, "settle_iter": 0, "recalib_iter": 0, **PICK}
        prune |= sections.pop("prune", {})
        return search_values(
            which, prune=prune, train={"total_iter": 3}, compact=FINETUNE, **{"val": {"val_freq": 2}, **sections}
        )

    return values


def report_of(folder):
    return json.loads((folder / "experiments/s/prune_report.json").read_text())


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("init_from", ["cotrained", "teacher"])
def test_the_best_mask_stays_and_fine_tuning_gets_as_far_as_its_trial(values, tmp_path, init_from):
    assert run(basicsr.train, tmp_path, values(prune={"init_from": init_from})) == 0
    report, content = report_of(tmp_path), torch.load(tmp_path / "experiments/s/compact/net_g_xs.pth")
    tried = report["tried"]
    assert [(one["mask"], one["kept"], one["p"]) for one in tried] == [
        (one["mask"], one["kept"], one["p"]) for one in report["ranking"][:3]
    ]
    best = max(tried, key=lambda one: one["psnr_after"])
    assert report["kept"] == content["meta"]["kept"] == best["kept"]
    assert len({one["psnr_after"] for one in tried}) == 3 and all(o["psnr_before"] != o["psnr_after"] for o in tried)
    (log,) = (tmp_path / "experiments/s").glob("train_*.log")
    assert log.read_text().count(" dB, after 3 iterations ") == 3
    assert run(basicsr.train, tmp_path, "experiments/s/compact/train_finetune.yml") == 0
    state = torch.load(tmp_path / "experiments/s_finetune/training_states/3.state")
    assert state["best"]["Photos"]["psnr"][0] == pytest.approx(best["psnr_after"], abs=1e-6)


@pytest.mark.usefixtures("short")
def test_the_mode_may_lose(values, tmp_path, monkeypatch):
    """The mask in the report, the cut network, and the network that is validated last are those of the best trial."""
    scores = iter([20.0, 21.0, 20.0, 23.0, 20.0, 22.0])
    monkeypatch.setattr(recovery, "mean_scores", lambda model, sets: {"psnr": next(scores)})
    assert run(basicsr.train, tmp_path, values()) == 0
    report = report_of(tmp_path)
    assert report["kept"] == report["ranking"][1]["kept"] != report["ranking"][0]["kept"]
    assert [(one["psnr_before"], one["psnr_after"]) for one in report["tried"]] == [(20, 21), (20, 23), (20, 22)]
    state = torch.load(tmp_path / "experiments/s/training_states/3.state")
    assert state["search"]["mode"] == report["tried"][1]["mask"]


@pytest.mark.usefixtures("short")
def test_masks_are_compared_without_an_unreadable_image(values, tmp_path):
    options = values()
    options["datasets"]["val"]["cache_mb"] = 0
    held = tmp_path / "held"
    shutil.copytree(options["datasets"]["val"]["dataroot_gt"], held)
    options["datasets"]["val"]["dataroot_gt"] = str(held)
    damage_pixels(sorted(held.iterdir())[0])
    assert run(basicsr.train, tmp_path, options) == 0
    record = json.loads((tmp_path / "experiments/s" / RECORD).read_text())
    assert record["settings"]["left_out"] == [str(sorted(held.iterdir())[0])]
    assert len(record["tried"]) == 3
    (log,) = (tmp_path / "experiments/s").glob("train_*.log")
    assert "All masks are compared without 1 images that cannot be read" in log.read_text()


@pytest.mark.usefixtures("short")
def test_without_any_readable_image_the_choice_waits(values, tmp_path, capsys):
    options = values()
    held = tmp_path / "held"
    shutil.copytree(options["datasets"]["val"]["dataroot_gt"], held)
    options["datasets"]["val"] |= {"dataroot_gt": str(held), "cache_mb": 0}
    for image in held.iterdir():
        damage_pixels(image)
    assert run(basicsr.train, tmp_path, options) == 2
    (log,) = (tmp_path / "experiments/s").glob("train_*.log")
    assert "Photos: no image can be read; mend that, then go on with --auto_resume" in log.read_text()
    assert (tmp_path / "experiments/s/training_states/3.state").exists()


class StopError(RuntimeError):
    """What ends a run in its middle."""


@pytest.mark.usefixtures("short")
def test_an_interrupted_choice_goes_on_with_the_next_mask(values, tmp_path, monkeypatch):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    options = values(prune={"tail": "original", "recalib_iter": 2}, kd={"zoom": {"weight": 0.1}})
    for folder in (straight, killed):
        folder.mkdir()
    assert run(basicsr.train, straight, options) == 0
    trained, fine_tune = [], recovery.fine_tune

    def die(model, loader):
        trained.append(model.prune.kept)
        if len(trained) == 2:
            raise StopError
        fine_tune(model, loader)

    monkeypatch.setattr(recovery, "fine_tune", die)
    with pytest.raises(StopError):
        run(basicsr.train, killed, options)
    assert len(json.loads((killed / "experiments/s" / RECORD).read_text())["tried"]) == 1
    assert run(basicsr.train, killed, options, "--auto_resume") == 0
    assert len(trained) == 4 and trained[1] == trained[2]
    for file in (RECORD, "prune_report.json", "compact/mask.npy", "mask_log.csv"):
        assert (killed / "experiments/s" / file).read_bytes() == (straight / "experiments/s" / file).read_bytes(), file


@pytest.mark.slow
def test_two_processes_try_the_same_masks_as_one(values, tmp_path):
    """Each with half the batch."""
    reports = []
    for processes in (0, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        options = values("catanet", prune={"recalib_iter": 2})
        options["datasets"]["train"]["batch_size_per_gpu"] = 2 // max(processes, 1)
        write_options(folder, options)
        launcher = ["--launcher", "pytorch"] if processes else []
        command = (basicsr.train.__file__, "-opt", "s.yml", *launcher)
        done = run_python(*command, processes=processes, cwd=folder, env={"OMP_NUM_THREADS": "1"}, timeout=300)
        assert done.returncode == 0, done.stderr
        reports.append(report_of(folder))
    one, two = (report["tried"] for report in reports)
    assert [trial["mask"] for trial in one] == [trial["mask"] for trial in two]
    for key in ("psnr_before", "psnr_after"):
        assert [trial[key] for trial in two] == pytest.approx([trial[key] for trial in one], abs=2e-3)
    assert reports[0]["kept"] == reports[1]["kept"]


class TestRecord:
    """`pick_mask` by itself."""

    @pytest.fixture
    def pick(self, tmp_path):
        """Runs it with these settings; returns the masks that were trained and the chosen one."""

        def pick(settings):
            ranking = [((1, 0, 1), 0.5), ((1, 1, 0), 0.3), ((0, 1, 1), 0.2)]
            prune = PruneOptions(pick="best_of_topk", pick_topk=3)
            sampler = SimpleNamespace(ranking=lambda k: ranking[:k])
            search = SimpleNamespace(prune=prune, sampler=sampler, resources=[], mode="101")
            trained = []

            def recover(kept):
                trained.append(kept)
                return 1.0, 2.0 + kept[0] - kept[1] / 10

            pick_mask(SimpleNamespace(path=SimpleNamespace(log=tmp_path)), search, settings, recover)
            return trained, search.mode

        return pick

    def test_is_used_with_the_same_settings_alone(self, pick):
        assert pick({"size": (1, 2)}) == ([[0, 2], [0, 1], [1, 2]], "011")
        assert pick({"size": (1, 2)}) == ([], "011")
        assert pick({"size": (1, 3)}) == ([[0, 2], [0, 1], [1, 2]], "011")

    def test_that_is_damaged_is_made_anew(self, pick, tmp_path):
        pick({})
        (tmp_path / RECORD).write_text("{")
        assert len(pick({})[0]) == 3


def test_masks_beyond_the_budget_are_not_tried():
    ranking = [((1, 1), 0.5), ((1, 0), 0.3), ((0, 1), 0.2)]
    search = SimpleNamespace(sampler=SimpleNamespace(ranking=lambda k: ranking[:k]))
    for limit, expected in ((1, ranking[1:]), (2, ranking), (0, ranking)):
        search.resources = [Resource("blocks", 0, (1, 1), limit)]
        assert most_probable(search, 3) == expected


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"compact": {"enable": False}}, r"x\.yml:\d+: compact.enable: is false, .*use pick: mode"),
        ({"val": {"metrics": {}}}, r"val.metrics: has no `psnr`, by which prune.pick scores the masks"),
        ({"prune": {"pick_iter": 5}, "compact": {"finetune": {"warmup_iter": 7}}},
         r"x\.yml:\d+: prune.pick_iter: must be above the 7 iterations of warm-up, got 5; raise it, or lower"),
        ({"prune": {"tail_warmup_iter": 4}}, r"prune.pick_iter: must be above the 4 iterations of warm-up, got 3"),
    ],
)  # fmt: skip
def test_what_cannot_be_tried_is_said_before_the_search(search_values, model_of, sections, message):
    values = search_values("cnn", **sections)
    values["prune"] = {**values["prune"], **PICK, **sections.get("prune", {})}
    with pytest.raises(OptionError, match=message):
        model_of(values)


def test_a_run_without_a_validation_set_is_rejected(search_values, model_of):
    values = search_values("cnn", prune={"warmup_iter": 2, "search_iter": 5, "settle_iter": 3, **PICK})
    del values["datasets"]["val"]
    with pytest.raises(OptionError, match=r"datasets: has no `val` set, by which prune.pick could score the masks"):
        model_of(values)


def test_the_page_shows_what_was_tried(tmp_path):
    tried = [{"mask": "101", "kept": [0, 2], "p": 0.5, "psnr_before": 20.5, "psnr_after": 21.1234}]
    report = {"mask": [1, 0, 1], "kept": [0, 2], "kept_original": [3, 7], "tried": tried}
    (tmp_path / "prune_report.json").write_text(json.dumps(report))
    text = write_html(tmp_path, read_run(tmp_path)).read_text()
    assert "<h2>Masks tried by a short fine-tuning</h2>" in text and ">20.500<" in text and ">21.123<" in text
    assert "keeps 2 of 3 groups: 0, 2. They are groups [3, 7] of the network that was cut first." in text
    (tmp_path / "prune_report.json").write_text(json.dumps({**report, "kept_original": [0, 2], "tried": []}))
    text = write_html(tmp_path, read_run(tmp_path)).read_text()
    assert "tried" not in text and "cut first" not in text
