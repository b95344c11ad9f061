import csv
import json
import math
from html.parser import HTMLParser
from itertools import combinations

import cv2
import numpy as np
import pytest

from basicsr.pruning.mask_log import MaskLog
from basicsr.pruning.report import mask_plots, result_plots, search_plots
from basicsr.pruning.report.page import build_report, write_html
from basicsr.pruning.report.read import RankedMask, RunMask, psnr_columns, read_run

SCRIPT = "prune_report.py"
GROUPS, ROWS, STEP = 8, 40, 500
MASKS = np.array([[i in kept for i in range(GROUPS)] for kept in combinations(range(GROUPS), 3)], dtype=float)
CHOSEN = "10010001"
FIXED = {"blocks": 0, "params": 59_963, "macs_g": 3.72}
COSTS = {"blocks": [1] * 8, "params": [52_184] * 8, "macs_g": [7.80, 7.57, 8.03, 9.21] * 2}
LIMITS = {"blocks": 3, "params": 230_000}
NAMES = (
    "marginals",
    "groups_over_time",
    "costs",
    "certainty",
    "ranking",
    "runs",
    "tradeoff",
    "finetune_losses",
    "recovery",
)
TRAIN_LINE = "[try..][epoch:  0, iter: {:7,d}, lr:(2.000e-04,)] [eta: 1:00:00, time (data): 0.6 (0.0)] {}\n"


def bits_of(mask):
    return "".join(str(int(bit)) for bit in mask)


def write_log(path, seed=0, chosen=CHOSEN):
    """The log of a search over 56 masks whose logits grow towards `chosen`; returns the last distribution."""
    rng, log = np.random.default_rng(seed), MaskLog(path)
    target = np.array([int(bit) for bit in chosen])
    pull, noise, logits = (MASKS @ target), rng.normal(size=56), np.zeros(56)
    changes, before = 0, ""
    for row in range(ROWS):
        phase = "warmup" if row < 4 else "search" if row < 36 else "settle"
        if phase == "search":
            logits += 0.11 * pull + 0.01 * noise + rng.normal(size=56) * 0.05
        p = np.exp(logits - logits.max())
        p /= p.sum()
        pi, best = p @ MASKS, MASKS[p.argmax()]
        drawn = best if phase == "settle" else MASKS[rng.choice(56, size=100, p=p)].mean(axis=0)
        changes, before = changes + (bits_of(best) != before), bits_of(best)
        cost = {f"E_{name}": FIXED[name] + pi @ COSTS[name] for name in COSTS}
        cost |= {f"mode_{name}": FIXED[name] + best @ COSTS[name] for name in COSTS}
        log.append(
            {
                "iter": (row + 1) * STEP, "phase": phase, "tau": 4 - 3.9 * row / ROWS, "eps": 0.05, "lr_g": 1e-4,
                "lr_m": 0.03, "l_total": 0.03 / (row + 1), "l_pix": 0.02 / (row + 1), "l_ts": 0.01 / (row + 1), **cost,
                "entropy": float(-(p * np.log(p)).sum()), "p_max": float(p.max()), "mode": before,
                "mode_changes": changes, "hamming": 0, **{f"pi_{i}": v for i, v in enumerate(pi)},
                **{f"drawn_{i}": v for i, v in enumerate(drawn)}, "grad_norm_m": 0.1, "grad_norm_g": 0.5,
            }
        )  # fmt: skip
    return p


def write_report(folder, p, chosen=CHOSEN):
    order = np.argsort(-p)[:10]
    mask = [int(bit) for bit in chosen]
    report = {
        "mask": mask, "kept": [i for i, bit in enumerate(mask) if bit], "number": GROUPS,
        "ranking": [{"mask": bits_of(MASKS[o]), "kept": np.flatnonzero(MASKS[o]).tolist(), "p": p[o]} for o in order],
        "pi": (p @ MASKS).tolist(),
        "resources": {
            name: {"fixed": FIXED[name], "groups": COSTS[name], "limit": LIMITS.get(name),
                   "full": FIXED[name] + sum(COSTS[name]), "kept": FIXED[name] + float(np.dot(mask, COSTS[name]))}
            for name in COSTS
        },
        "equality": {"<b>1x3x64x64</b>": 0.0, "2x3x48x80": 2e-5}, "equality_dtype": "float64",
        "teacher": {"path": "pretrained_models/x2.pth", "sha256": "ab" * 32},
        "versions": {"basicsr": "1.0"}, "seeds": {"manual_seed": 0},
        "options": {"prune": {"tau": [4.0, 0.1]}, "note": "a < b & c"},
    }  # fmt: skip
    (folder / "prune_report.json").write_text(json.dumps(report))


def write_ranks(path, p):
    rng = np.random.default_rng(5)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["mask", "kept", "zero_shot_psnr", "recovered_psnr", "p"])
        for place, mask in enumerate(MASKS):
            near = mask @ [int(bit) for bit in CHOSEN] + rng.normal() * 0.4
            zero_shot, recovered = 24 + 1.5 * near + rng.normal(), 36.5 + 0.35 * near
            kept = " ".join(map(str, np.flatnonzero(mask)))
            writer.writerow(
                [bits_of(mask), kept, f"{zero_shot:.3f}", "" if place % 9 == 4 else f"{recovered:.3f}", p[place]]
            )


RESULTS = """\
row,network,mask,losses,params,macs_conv_linear_g,macs_attention_g,latency_ms,Set5_psnr,Set5_ssim,Set14_psnr,B100_psnr,\
Urban100_psnr,Manga109_psnr,seed,iterations,wall_min
T,CATANet-L,,,477435,58.1,11.2,412.5,38.28,0.9617,33.99,32.37,33.09,39.37,0,800000,
M,CATANet-M,,,306000,,,,38.17,,33.94,32.29,32.67,,0,800000,
A,CATANet-S,,DS,230079,27.1,6.1,215.0,38.13,0.9608,33.80,32.25,32.50,,0,520000,900
A,CATANet-S,,DS,230079,27.1,6.1,213.0,38.11,0.9608,33.78,32.24,32.46,,1,520000,900
B,CATANet-XS,10010001,DS,216515,22.1,5.2,185.0,38.02,0.9601,33.62,32.17,32.21,,0,520000,800
C,CATANet-XS,10010001,DS,216515,22.1,5.2,185.0,38.05,0.9602,33.66,32.19,32.29,,0,520000,800
D,CATANet-XS,10010001,DS+TS,216515,22.1,5.2,185.0,38.09,0.9605,33.72,32.22,32.40,,0,520000,820
G,CATANet-XS,10010001,DS+TS+SA,216515,22.1,5.2,186.0,38.12,0.9607,33.76,32.24,32.47,,0,520000,850
G,CATANet-XS,10010001,DS+TS+SA,216515,22.1,5.2,184.0,38.10,0.9606,33.74,32.23,32.44,,1,520000,850
H,CATANet-XS,01100010,DS+TS+SA,216515,21.9,5.2,183.0,38.07,0.9604,33.71,32.21,32.36,,0,520000,850
O,CATANet-XS-D,10011001,DS+TS+SA,214188,25.1,5.9,160.0,38.13,0.9607,33.79,32.24,32.49,,0,520000,850
"""


def write_training(folder, seed):
    folder.mkdir()
    rng = np.random.default_rng(seed)
    with (folder / "train_try_20250101.log").open("w") as file:
        for step in range(1, 61):
            noise = np.exp(rng.normal(size=3) * 0.15)
            values = noise * [0.02 / step**0.2, 0.01 / step**0.3, 0.04 * max(0, 1 - step / 48)]
            losses = zip(("l_pix", "l_ts", "l_sa"), values, strict=True)
            file.write(TRAIN_LINE.format(step * 1000, " ".join(f"{name}: {value:.4e}" for name, value in losses)))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder `search` with all inputs, two further searches and two fine-tuning runs. Do not write to it."""
    root = tmp_path_factory.mktemp("experiments")
    for place, chosen in enumerate((CHOSEN, "10010001", "10001001")):
        folder = root / ("search" if place == 0 else f"prune_CATANet-XS_x2_subset_seed{place}")
        folder.mkdir()
        p = write_log(folder / "mask_log.csv", seed=place, chosen=chosen)
        write_report(folder, p, chosen)
        if place == 0:
            write_ranks(folder / "rank_masks.csv", p)
    (root / "search" / "results.csv").write_text(RESULTS)
    write_training(root / "finetune_CATANet-XS_x2_row_D", 1)
    write_training(root / "finetune_CATANet-XS_x2_row_G", 2)
    return root


@pytest.fixture(scope="module")
def page(script, world, tmp_path_factory):
    """The page that the script makes from everything, in a folder of its own."""
    output = tmp_path_factory.mktemp("page")
    runs = sorted(world.glob("prune_*"))
    tuned = sorted(world.glob("finetune_*"))
    arguments = [world / "search", "--runs", *runs, "--finetune", *tuned, "-o", output]
    assert script.main([str(argument) for argument in arguments]) == 0
    return output / "prune_report.html"


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", NAMES)
def test_each_plot_is_drawn_with_its_data(page, name):
    picture = cv2.imread(str(page.parent / "plots" / f"{name}.png"))
    assert picture.shape[1] == 1008 and picture.shape[0] > 250
    colored = np.ptp(picture.astype(int), axis=2) > 60
    assert colored.mean() > 0.002  # more than axes and text, which are gray
    assert (picture[[0, -1]] == 255).all() and (picture[:, [0, -1]] == 255).all()  # nothing is cut off at the border
    rows = table(page.parent / "plots" / f"{name}.csv")
    assert rows and all(None not in row and None not in row.values() for row in rows)


def test_data_of_the_plots(page):
    plots = page.parent / "plots"
    rows = table(plots / "marginals.csv")
    assert len(rows) == ROWS and rows[-1]["iter"] == "20000" and rows[0]["phase"] == "warmup"
    assert sum(float(rows[-1][f"pi_{i}"]) for i in range(GROUPS)) == pytest.approx(3)
    assert {row["budget_params"] for row in table(plots / "costs.csv")} == {"230000"}
    assert {row["run"] for row in table(plots / "finetune_losses.csv")} == {
        "finetune_CATANet-XS_x2_row_D", "finetune_CATANet-XS_x2_row_G",
    }  # fmt: skip
    assert [row["mask"] for row in table(plots / "runs.csv")] == [CHOSEN, CHOSEN, "10001001"]
    ranking = table(plots / "ranking.csv")
    assert len(ranking) == 20 and ranking[0]["mask"] == CHOSEN and ranking[0]["kept"] == "0, 3, 7"
    p = [float(row["p"]) for row in ranking]
    assert p == sorted(p, reverse=True)


def test_tradeoff_averages_seeds_over_the_sets_that_decide(page):
    rows = {row["row"]: row for row in table(page.parent / "plots" / "tradeoff.csv")}
    assert rows["A"]["seeds"] == "2" and rows["A"]["sets"] == "Set5 Set14 B100 Urban100"
    assert float(rows["A"]["psnr_max"]) == pytest.approx((38.13 + 33.80 + 32.25 + 32.50) / 4)
    assert float(rows["A"]["psnr_mean"]) == pytest.approx((38.12 + 33.79 + 32.245 + 32.48) / 4)
    assert rows["A"]["latency_ms"] == "214.0" and rows["M"]["latency_ms"] == ""


def test_bins_are_means_of_their_rows(tmp_path):
    log = {"iter": [10 * (i + 1) for i in range(100)], "pi_0": [float(i) for i in range(100)]}
    assert search_plots.plot_group_maps(log, tmp_path / "map.png")
    rows = table(tmp_path / "map.csv")
    assert len(rows) == 50 and [rows[1]["from_iter"], rows[1]["to_iter"]] == ["20.0", "40.0"]
    assert float(rows[1]["probability to stay 0"]) == 2.5


NOTHING = {
    "marginals": lambda path: search_plots.plot_marginals({"iter": [1], "tau": [1.0]}, path),
    "groups_over_time": lambda path: search_plots.plot_group_maps({"iter": [], "pi_0": []}, path),
    "costs": lambda path: search_plots.plot_costs({"iter": [1], "E_params": [math.nan]}, path, {"params": 1.0}),
    "certainty": lambda path: search_plots.plot_certainty({}, path),
    "ranking": lambda path: mask_plots.plot_ranking([RankedMask("10", zero_shot=30.0)], path),
    "runs": lambda path: mask_plots.plot_runs([RunMask("a", (1.0, 0.0), "10")], path),
    "tradeoff": lambda path: result_plots.plot_tradeoff([{"network": "a", "params": "?", "Set5_psnr": "38"}], path),
    "finetune_losses": lambda path: result_plots.plot_losses({"a": {"lr": {1: 1e-4}}}, path),
    "recovery": lambda path: mask_plots.plot_recovery([RankedMask("10", 1.0, 30.0), RankedMask("01", 0.0, 29.0)], path),
}


@pytest.mark.parametrize("name", NAMES)
def test_without_data_there_is_no_picture(tmp_path, name):
    assert not NOTHING[name](tmp_path / f"{name}.png")
    assert list(tmp_path.iterdir()) == []


def test_tradeoff_uses_only_sets_that_all_rows_have(tmp_path):
    rows = [
        {"network": "a", "row": "", "params": "1", "psnr_y Set5": "38", "Mean_PSNR": "1", "PSNR Set14": "34"},
        {"network": "b", "row": "", "params": "2", "psnr_y Set5": "37", "Mean_PSNR": "1", "PSNR Set14": ""},
    ]
    assert psnr_columns(rows) == {"Set5": "psnr_y Set5", "Set14": "PSNR Set14"}
    assert result_plots.plot_tradeoff(rows, tmp_path / "t.png")
    assert [row["psnr_mean"] for row in table(tmp_path / "t.csv")] == ["38.0", "37.0"]


def test_rank_correlation():
    assert mask_plots.rank_correlation([1, 2, 3, 4], [10, 20, 30, 99]) == pytest.approx(1)
    assert mask_plots.rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert mask_plots.rank_correlation([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(0.9486833)  # a tie: mean rank
    assert math.isnan(mask_plots.rank_correlation([1, 1], [1, 2]))


def test_runs_of_different_networks_are_not_compared(tmp_path):
    runs = [RunMask("a", (1.0, 0.0), "10"), RunMask("b", (1.0, 0.0, 1.0), "101")]
    with pytest.raises(ValueError, match="runs: b has 3 groups, a has 2"):
        mask_plots.plot_runs(runs, tmp_path / "runs.png")


class Page(HTMLParser):
    """Checks that every element is closed in order; collects tags, addresses and text."""

    VOID = ("meta", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.words, self.kept = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.links += [values[key] for key in ("src", "href") if key in values]
        self.kept += [values["class"] == "kept"] if tag == "li" else []
        self.open += [] if tag in self.VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_page_is_whole_and_needs_nothing_else(page):
    text = page.read_text(encoding="utf-8")
    parsed = Page(text)
    assert parsed.tags.count("img") == len(NAMES)
    assert all(link.startswith("data:image/png;base64,") for link in parsed.links)
    assert "script" not in parsed.tags and "link" not in parsed.tags
    assert "http:" not in text and "https:" not in text and "url(" not in text and "@import" not in text
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_page_shows_what_was_decided(page):
    parsed = Page(page.read_text(encoding="utf-8"))
    assert parsed.kept == [bit == "1" for bit in CHOSEN]
    words = " ".join(parsed.words)
    assert "keeps 3 of 8 groups: 0, 3, 7" in words
    for expected in ("216,515", "477,435", "45.35", "CATANet-XS-D", "2e-05", "float64"):
        assert expected in words
    assert {"Teacher", "Seeds", "Versions", "Options"} <= set(parsed.words)


def test_page_escapes_text(page):
    text = page.read_text(encoding="utf-8")
    assert "&lt;b&gt;1x3x64x64&lt;/b&gt;" in text and "<b>" not in text and "a &lt; b &amp; c" in text


def test_page_escapes_names(tmp_path):
    folder = tmp_path / "<i>run & co"
    folder.mkdir()
    MaskLog(folder / "mask_log.csv").append({"iter": 1500, "mode": "011"})
    run = read_run(folder)
    parsed = Page(write_html(tmp_path, run).read_text(encoding="utf-8"))
    words = " ".join(parsed.words)
    assert "<i>run & co" in words and "i" not in parsed.tags
    assert "under way: this is its state at iteration 1,500" in words and parsed.kept == [False, True, True]
    assert "table" not in parsed.tags and "img" not in parsed.tags


def test_report_probabilities_count_over_those_of_the_ranking_file(tmp_path):
    (tmp_path / "prune_report.json").write_text('{"mask": [1, 0], "ranking": [{"mask": "10", "p": 0.75}]}')
    (tmp_path / "rank_masks.csv").write_text("mask,zero_shot_psnr,p\n01,28.5,0.25\n10,29.5,0.5\n")
    run = read_run(tmp_path)
    assert [mask[:3] for mask in run.masks] == [("10", 0.75, 29.5), ("01", 0.25, 28.5)]
    assert run.decision == RunMask(tmp_path.name, [1.0, 0.0], "10") and run.limits == {}


def test_a_search_without_ranking_or_log_makes_a_page_without_plots(tmp_path):
    (tmp_path / "prune_report.json").write_text('{"mask": [1, 0, 1]}')
    page = build_report(tmp_path)
    assert page == tmp_path / "prune_report.html" and Page(page.read_text()).kept == [True, False, True]
    assert not (tmp_path / "plots").exists()


def test_missing_inputs_are_named(refused, world, tmp_path):
    assert "has no prune_report.json and no rows in mask_log.csv" in refused(tmp_path)
    assert str(tmp_path / "none") in refused(world / "search", "--runs", tmp_path / "none", "-o", tmp_path)
    assert "has no train_*.log" in refused(world / "search", "--finetune", tmp_path, "-o", tmp_path)
    assert "none.csv: no such file" in refused(world / "search", "--results", tmp_path / "none.csv", "-o", tmp_path)
    assert not (tmp_path / "prune_report.html").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("prune_report.json", "{", "is no JSON"),
        ("prune_report.json", "[1]", "expected an object, got list"),
        ("prune_report.json", '{"mask": [1, 2]}', "mask: expected a list of 0 and 1, got [1, 2]"),
        ("prune_report.json", '{"mask": [1], "resources": {"params": 3}}', "resources: expected an object of objects"),
        ("prune_report.json", '{"mask": [1], "ranking": [{"p": 1}]}', "ranking: expected {mask: bits, p: number}"),
        ("mask_log.csv", "iter,mode\n1,2,3\n", "line 2: expected 2 cells, got 3"),
        ("rank_masks.csv", "bits,p\n1,2\n", "has no column 'mask'"),
        ("rank_masks.csv", "mask,p\n1,high\n", "line 2: p: expected a number, got 'high'"),
        ("results.csv", "row,params,Set5_psnr\nA,477K,38\n", "line 2: params: expected a number, got '477K'"),
        ("results.csv", "row,params,Set5_psnr\nA,4,best\n", "line 2: Set5_psnr: expected a number, got 'best'"),
    ],
)
def test_malformed_inputs_are_named(refused, tmp_path, name, text, message):
    (tmp_path / "prune_report.json").write_text('{"mask": [1]}')
    (tmp_path / name).write_text(text)
    line = refused(tmp_path)
    assert f"{tmp_path / name}: {message}" in line


def test_text_in_another_encoding_is_rejected(refused, tmp_path):
    (tmp_path / "prune_report.json").write_bytes(b'{"mask": [1], "note": "\xff"}')
    assert "is no UTF-8 text" in refused(tmp_path)
