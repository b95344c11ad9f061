import csv
import errno
import json
import math
import os

import pytest
import torch
import torch.multiprocessing as mp

from basicsr.config.registry import METRIC_REGISTRY
from basicsr.images.unreadable import Unreadable
from basicsr.metrics.evaluate import Best, Record, Scores, evaluate, merge_records

PSNR = {"type": "calculate_psnr", "crop_border": 0}
PSNR_PT = {"type": "calculate_psnr_pt", "crop_border": 0}


def make_batches(paths, size=1):
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, 8, 8, generator=generator) for _ in paths]
    return [
        {
            "lq": torch.stack(images[k : k + size]),
            "gt": torch.stack([image * 0.9 for image in images[k : k + size]]),
            "lq_path": [f"lq/{path}" for path in paths[k : k + size]],
            "gt_path": [f"gt/{path}" for path in paths[k : k + size]],
        }
        for k in range(0, len(paths), size)
    ]


def test_scores_every_image_of_every_batch_size():
    paths = ["a.png", "b.png", "c.png"]
    one = evaluate(lambda lq: lq, make_batches(paths), {"psnr": PSNR_PT}, "Toy")
    two = evaluate(lambda lq: lq, make_batches(paths, size=2), {"psnr": PSNR_PT}, "Toy")
    assert list(one.per_image) == ["a", "b", "c"]
    assert one == two
    assert one.mean()["psnr"] == pytest.approx(sum(s["psnr"] for s in one.per_image.values()) / 3)


def test_each_metric_gets_the_images_of_its_protocol():
    gt = torch.full((1, 3, 8, 8), 1.0)
    batch = {"lq": gt * 1.1, "gt": gt, "lq_path": ["x.png"], "gt_path": ["x.png"]}
    scores = evaluate(lambda lq: lq, [batch], {"strict": PSNR, "raw": PSNR_PT}, "Toy").mean()
    assert scores["strict"] == math.inf  # clamped, and identical images must not crash
    assert scores["raw"] == pytest.approx(20, abs=1e-4)


def test_without_gt_images_are_predicted_and_handed_on():
    batch = make_batches(["folder/a.png"])[0]
    lq_only = {"lq": batch["lq"], "lq_path": batch["lq_path"]}
    seen = {}
    scores = evaluate(lambda lq: lq + 1, [lq_only], {"psnr": PSNR}, "Toy", seen.__setitem__)
    assert list(seen) == ["a"] and torch.equal(seen["a"], batch["lq"] + 1)
    assert scores.per_image == {} and scores.mean() == {}
    assert "Toy" in scores.table()


def test_no_gradients_are_kept():
    scale = torch.ones((), requires_grad=True)
    seen = []
    evaluate(lambda lq: lq * scale, make_batches(["a.png"]), {}, "Toy", lambda name, sr: seen.append(sr.requires_grad))
    assert seen == [False]


def test_equal_stems_keep_their_scores_apart():
    batches = make_batches(["x/1.png", "y/1.png", "z.png"])
    names = []
    scores = evaluate(lambda lq: lq, batches, {"psnr": PSNR_PT}, "Toy", lambda name, sr: names.append(name))
    assert list(scores.per_image) == names == ["1", "1~2", "z"]
    rooted = evaluate(lambda lq: lq, batches, {"psnr": PSNR_PT}, "Toy", root="gt")
    assert list(rooted.per_image) == ["x/1", "y/1", "z"]
    assert list(rooted.per_image.values()) == list(scores.per_image.values())


def test_an_image_that_fails_is_named_and_the_others_are_scored(caplog):
    def predict(lq):
        return lq[..., :4, :4] if lq[0, 0, 0, 0] == broken else lq

    batches = make_batches(["a.png", "b.png", "c.png"])
    broken = batches[1]["lq"][0, 0, 0, 0]
    rows = []
    scores = evaluate(predict, batches, {"psnr": PSNR}, "Toy", on_scores=lambda *row: rows.append(row))
    reason = "gt/b.png: calculate_psnr: the images differ in shape, got (4, 4, 3) and (8, 8, 3)"
    assert list(scores.per_image) == ["a", "c"] and scores.failed == {"b": reason}
    assert rows == list(scores.per_image.items())
    assert f"Toy: {reason}. It has no scores; the run goes on" in caplog.text
    assert scores.problems == "Toy: 1 images failed"
    assert scores.mean()["psnr"] == sum(row["psnr"] for _, row in rows) / 2


@pytest.mark.parametrize("error", [MemoryError("not even in tiles of 64 px"), ValueError("too small")])
def test_an_image_that_the_network_does_not_take_has_no_scores(error):
    def predict(lq):
        raise error

    scores = evaluate(predict, make_batches(["a.png"]), {"psnr": PSNR}, "Toy")
    assert scores.per_image == {} and str(error) in scores.failed["a"] and "gt/a.png" in scores.failed["a"]
    assert scores.table().splitlines() == ["| Toy |", "| --- |", "| a |"]


def test_images_that_the_loader_passed_over_keep_their_places():
    paths = [f"{k}.png" for k in range(6)]
    batches = make_batches(paths)
    unreadable = [Unreadable(1, "gt/1.png", "cut off"), Unreadable(2, "gt/2.png", "gone")]
    read = [batches[0], *batches[3:]]
    scores = evaluate(lambda lq: lq, read, {"psnr": PSNR_PT}, "Toy", unreadable=unreadable)
    assert list(scores.per_image) == ["0", "3", "4", "5"]
    assert scores.failed == {"1": "cut off", "2": "gone"} and scores.count == "4 of 6"

    def records(names, missing=()):
        return [Record(name, name, None if name in missing else {}, "gone" * (name in missing)) for name in names]

    merged = merge_records([records("ace", "c"), records("bdf")])
    assert "".join(record.name for record in merged) == "abcdef"


def test_a_picture_that_cannot_be_written_costs_no_score(caplog):
    def write(name, sr):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    scores = evaluate(lambda lq: lq, make_batches(["a.png"]), {"psnr": PSNR_PT}, "Toy", write)
    assert list(scores.per_image) == ["a"] and not scores.failed
    assert scores.problems == "Toy: 1 pictures could not be written"
    assert "the picture of a is not written: No space left on device; make room" in caplog.text


def test_a_mistake_in_a_metric_is_not_hidden():
    @METRIC_REGISTRY.register(name="calculate_mistake_test")
    def mistake(img, img2, **kwargs):
        return img.no_such_name

    with pytest.raises(AttributeError):
        evaluate(lambda lq: lq, make_batches(["a.png"]), {"x": {"type": "calculate_mistake_test"}}, "Toy")


def test_a_plug_in_metric_needs_no_attributes():
    @METRIC_REGISTRY.register(name="calculate_zero_test")
    def zero(img, img2, **kwargs):
        assert img.dtype == "uint8"
        return 0.0

    scores = evaluate(lambda lq: lq, make_batches(["a.png"]), {"zero": {"type": "calculate_zero_test"}}, "Toy")
    assert scores.mean() == {"zero": 0.0}


SCORES = Scores(
    "Set5", {"a": {"psnr": 30.0, "ssim": 0.9}, "b": {"psnr": math.inf, "ssim": 1.0}}, {"psnr": "uint8, Y, crop 4"}
)


def test_table():
    assert SCORES.table().splitlines() == [
        "| Set5 | psnr (uint8, Y, crop 4) | ssim |",
        "| --- | ---: | ---: |",
        "| a | 30.0000 | 0.9000 |",
        "| b | inf | 1.0000 |",
        "| **mean** | inf | 0.9500 |",
    ]


def test_files(tmp_path):
    SCORES.to_json(tmp_path / "new" / "scores.json")
    SCORES.to_csv(tmp_path / "new" / "scores.csv")
    content = json.loads((tmp_path / "new" / "scores.json").read_text(), parse_constant=pytest.fail)
    assert content["mean"] == {"psnr": "inf", "ssim": pytest.approx(0.95)}
    assert content["per_image"]["a"] == {"psnr": 30.0, "ssim": 0.9}
    assert content["protocols"] == {"psnr": "uint8, Y, crop 4"}
    rows = list(csv.reader((tmp_path / "new" / "scores.csv").open(newline="")))
    assert rows[:3] == [["image", "psnr", "ssim"], ["a", "30.0", "0.9"], ["b", "inf", "1.0"]]
    assert rows[3][0] == "mean" and float(rows[3][1]) == math.inf


def test_incomplete_scores_are_marked_everywhere(tmp_path):
    scores = Scores("Set5", {"a": {"psnr": 30.0}, "b": {"psnr": 32.0}}, failed={"c": "c.png: cut off"})
    assert scores.table().splitlines()[2:] == [
        "| a | 30.0000 |", "| b | 32.0000 |", "| c | - |", "| **mean of 2 of 3** | 31.0000 |",
    ]  # fmt: skip
    scores.to_csv(tmp_path / "scores.csv")
    rows = list(csv.reader((tmp_path / "scores.csv").open(newline="")))
    assert rows[3:] == [["c", ""], ["mean of 2 of 3", "31.0"]]
    assert scores.to_plain()["failed"] == {"c": "c.png: cut off"}
    best = Best({"psnr": PSNR})
    assert best.update(scores, 5) == [] and best.get("Set5", "psnr") is None
    assert best.report(scores) == "Validation Set5\n\t # incomplete, 2 of 3 images, psnr: 31.0000"


def scores_of(**values):
    return Scores("Set5", {"a": values})


def test_best_follows_the_direction_and_keeps_the_first_of_equals():
    best = Best({"psnr": PSNR, "lpips": {**PSNR, "better": "lower"}})
    assert best.get("Set5", "psnr") is None
    assert best.update(scores_of(psnr=math.nan, lpips=0.3), 5) == ["lpips"]
    assert best.update(scores_of(psnr=30.0, lpips=0.4), 10) == ["psnr"]
    assert best.update(scores_of(psnr=30.0, lpips=0.2), 20) == ["lpips"]
    assert best.get("Set5", "psnr") == (30.0, 10)
    assert best.get("Set5", "lpips") == (0.2, 20)
    assert best.report(scores_of(psnr=29.5)) == "Validation Set5\n\t # psnr: 29.5000\tBest: 30.0000 @ 10 iter"


def test_best_survives_a_checkpoint(tmp_path):
    best = Best({"psnr": PSNR, "ssim": PSNR})
    best.update(scores_of(psnr=30.0, ssim=0.9), 10)
    torch.save(best.state_dict(), tmp_path / "state")
    resumed = Best({"psnr": PSNR})
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert resumed.state_dict() == {"Set5": {"psnr": (30.0, 10)}}
    assert resumed.update(scores_of(psnr=29.0), 20) == []


def evaluate_share(rank, init_file, result_file):
    torch.distributed.init_process_group("gloo", init_method=f"file://{init_file}", rank=rank, world_size=2)
    batches = make_batches(["a/1.png", "b/1.png", "c.png"])
    batches.append(batches[0])  # what a padded sampler does to make the shares equal
    scores = evaluate(lambda lq: lq, batches[rank::2], {"psnr": PSNR_PT}, "Toy")
    torch.save(list(scores.per_image.items()), f"{result_file}{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(torch.__version__ < (2, 10), reason="gloo of PyTorch 2.6 may hang when the group is destroyed")
def test_two_processes_return_the_scores_of_one(tmp_path, monkeypatch, pytestconfig):
    monkeypatch.syspath_prepend(pytestconfig.rootpath)  # where the new processes find this module
    mp.spawn(evaluate_share, args=(tmp_path / "init", tmp_path / "result"), nprocs=2)
    alone = evaluate(lambda lq: lq, make_batches(["a/1.png", "b/1.png", "c.png"]), {"psnr": PSNR_PT}, "Toy")
    for rank in range(2):
        assert torch.load(tmp_path / f"result{rank}", weights_only=True) == list(alone.per_image.items())


def test_tables_of_one_channel_are_headed_gray():
    metrics = {"psnr": {"type": "calculate_psnr", "crop_border": 0}}
    for channels, name in ((1, "gray"), (3, "RGB")):
        batch = {"lq": torch.rand(1, channels, 16, 16), "gt": torch.rand(1, channels, 16, 16), "lq_path": ["a.png"]}
        scores = evaluate(lambda lq: lq, [batch], metrics, "Set12")
        assert scores.protocols == {"psnr": f"uint8, {name}, crop 0"}


def test_an_image_called_mean_has_a_row_of_its_own(tmp_path):
    scores = Scores("set", {"mean": {"psnr": 30.0}, "other": {"psnr": 40.0}})
    scores.to_csv(tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["image", "mean", "other", "mean of all"]
