import importlib.util
import json
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fake_graphs import FakeBackend
from reference import atd_literal

import benchmark
from basicsr.archs import build_network
from basicsr.data import device_cache
from basicsr.engine.checkpoint import save_atomically
from basicsr.engine.launches import count_launches
from basicsr.errors import OptionError
from benchmarks import latency, literal, reading, report, timing, training
from benchmarks.config import Config, Size, build_net

SCRIPT = Path(__file__).parents[2] / "scripts/benchmark.py"
SPEC = {
    "type": "CATANet", "upscale": 2, "dim": 16, "block_num": 1, "qk_dim": 12, "mlp_dim": 24, "heads": 2,
    "patch_size": 8, "num_tokens": 4, "group_size": 32, "n_iters": 2,
}  # fmt: skip
ATD_V1 = {
    "type": "ATD", "upscale": 2, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 4], "window_size": 4,
    "category_size": 24, "num_tokens": 10, "reducted_dim": 4, "convffn_kernel_size": 3, "mlp_ratio": 1.5,
    "upsampler": "pixelshuffledirect",
}  # fmt: skip
ATD_U = {
    "type": "ATDUNet", "in_chans": 1, "embed_dim": 6, "depths": [1, 2, 1], "num_heads": [1, 2, 3],
    "window_size": [4, 2, 2], "dim_ffn_td": [2, 3, 2], "category_size": [24, 16, 12], "num_tokens": [8, 6, 5],
    "reducted_dim": [3, 4, 3], "convffn_kernel_size": 3, "mlp_ratio": 2.66,
}  # fmt: skip
FAMILY = {
    "v1": ATD_V1, "v2": ATD_V1 | {"dim_ffn_td": 3}, "U": ATD_U,
    "v2 with other options": ATD_V1 | {
        "dim_ffn_td": 2, "in_chans": 1, "upsampler": "pixelshuffle", "upscale": 4, "resi_connection": "3conv",
        "qkv_bias": False, "patch_norm": False, "img_range": 2.0, "category_size": 16,
    },
    "U with other options": ATD_U | {"in_chans": 3, "bias": True, "patch_norm": True, "mlp_ratio": 1.0},
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_unit(monkeypatch):
    monkeypatch.setattr(timing, "UNIT_SIDE", 32)


@pytest.fixture(scope="module")
def options_with(tmp_path_factory):
    """Writes an option file with a network."""

    def options_with(spec):
        path = tmp_path_factory.mktemp("options") / "tiny.yml"
        dataset = {"type": "PairedImageDataset", "dataroot_gt": "not/needed"}
        dataset |= {"color": "y"} if spec.get("in_chans") == 1 else {}
        values = {"name": "tiny", "scale": spec.get("upscale", 1), "datasets": {"test": dataset}, "network_g": spec}
        path.write_text(json.dumps(values))  # JSON is YAML, too
        return str(path)

    return options_with


@pytest.fixture(scope="module")
def tiny(options_with):
    """An option file with a network of a few layers."""
    return options_with(SPEC)


@pytest.fixture
def run(tmp_path, capsys):
    """Runs a command line; returns the content of its JSON file, after a check of the Markdown next to it."""

    def run(command):
        stem = tmp_path / "results/out"
        assert benchmark.main([*shlex.split(command), "-o", str(stem)]) == 0
        return read(stem, capsys.readouterr().out)

    return run


def read(stem, printed):
    content = json.loads(Path(f"{stem}.json").read_text())
    text = Path(f"{stem}.md").read_text()
    assert text in printed
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(content["rows"])
    assert len({line.count("|") for line in table}) == 1
    assert sorted(path.name for path in stem.parent.iterdir() if path.stem == stem.name) == ["out.json", "out.md"]
    return content


def test_latency(run, tiny):
    content = run(
        f"latency --net {tiny} --size 16 20x12 --warmup 1 --runs 3 --threads 1 --vs form=literal "
        "--vs form=train,dtype=bfloat16"
    )
    head, rows = content["head"], content["rows"]
    assert head["threads"] == 1 and head["PyTorch"] == torch.__version__ and head["CPU"] and head["OS"]
    assert head["command"].startswith("python scripts/benchmark.py latency --net")
    assert [row["input"] for row in rows] == ["16x16"] * 3 + ["20x12"] * 3
    kinds = [("prepared", "float32"), ("literal", "float32"), ("train", "bfloat16")]
    assert [(row["form"], row["dtype"]) for row in rows[:3]] == kinds
    net = build_network(SPEC)
    for row in rows:
        samples = sorted(row["samples_ms"])
        assert len(samples) == 3 and samples[0] > 0
        assert row["median_ms"] == samples[1] and row["p95_ms"] == samples[2]
        assert row["frames_per_s"] == pytest.approx(1e3 / row["median_ms"])
        assert row["matmuls"] == pytest.approx(row["median_ms"] / row["matmul_ms"])
        assert row["parameters"] == sum(p.numel() for p in net.parameters())
    assert rows[0]["times_first"] == rows[3]["times_first"] == 1
    assert rows[1]["times_first"] == pytest.approx(rows[1]["median_ms"] / rows[0]["median_ms"])
    conv_linear, attention = net.multiply_adds(12, 20)
    assert rows[3]["multi_adds_conv_linear_G"] == conv_linear / 1e9
    assert rows[3]["multi_adds_attention_G"] == attention / 1e9
    assert rows[3]["output"] == "40x24"
    points = [note for note in content["notes"] if " fps " in note]
    assert len(points) == 6 and points[3].startswith("20x12 -> 40x24, ")
    assert points[3].endswith(
        " fps (1 / median): tiny.yml x2, prepared, float32, highest, eager, cpu, batch 1, 1 CPU threads"
    )
    assert float(points[3].split()[3].replace(",", "")) == pytest.approx(rows[3]["frames_per_s"], abs=0.01)


def test_all_forms_are_one_network(tiny):
    x = torch.rand(1, 3, 21, 17)
    outputs = []
    for form in ("train", "prepared", "literal"):
        net, run = benchmark.parse(["latency", "--net", tiny, "--form", form]).configs[0].build()
        assert all(flag for name, flag in net.named_buffers() if name.endswith("initted"))  # as in a trained network
        with torch.inference_mode():
            outputs.append(run(x))
    torch.testing.assert_close(outputs[1], outputs[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(outputs[2], outputs[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("spec", FAMILY.values(), ids=FAMILY.keys())
def test_all_forms_of_the_atd_family_are_one_network(options_with, spec):
    """In float64: where a rounding moves one pixel to another category, the whole output changes."""
    torch.manual_seed(0)
    net = build_network(spec)
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    weights = Path(options_with(spec)).with_suffix(".pth")
    torch.save({"params": net.state_dict()}, weights)
    x = torch.rand(1, spec.get("in_chans", 3), 13, 11, dtype=torch.float64)
    outputs = []
    for form in ("train", "literal"):
        command = ["latency", "--net", options_with(spec), "--weights", str(weights), "--form", form]
        _, run = benchmark.parse(command).configs[0].build()
        with torch.inference_mode():
            outputs.append(run.double()(x))
    assert not torch.allclose(outputs[0].mean(), outputs[0], atol=1e-3)
    torch.testing.assert_close(outputs[1], outputs[0], atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("name", "scale"),
    [("ATD-light", 4), ("ATD-light", 2), ("ATD-v1-light", 3), ("ATD", 2), ("ATD-v1", 4), ("ATD-U", 1)],
)
def test_presets_of_the_atd_family_have_literal_twins(monkeypatch, name, scale):
    monkeypatch.setattr(literal.runpy, "run_path", lambda path: vars(atd_literal))  # it computes, so not on meta
    with torch.device("meta"):
        net = build_net(Config(name, scale, None, "train", "float32", "cpu", False))
        twin = literal.literal_twin(net)
    assert not twin.training
    shapes = {name: value.shape for name, value in twin.state_dict().items()}
    assert shapes == {name: value.shape for name, value in net.state_dict().items()}
    facts = Config(name, scale, None, "literal", "float32", "cpu", False).facts(net, Size(64, 48))
    assert facts["network"] == f"{name} x{scale}" and facts["output"] == f"{64 * scale}x{48 * scale}"
    assert facts["multi_adds_conv_linear_G"] > 0


@pytest.mark.parametrize("name", ["v1", "v2", "U"])
def test_speed_of_the_atd_family(run, options_with, name):
    net = options_with(FAMILY[name])
    once = "--warmup 1 --runs 1 --threads 1"
    rows = run(
        f"latency --net {net} --form train --size 9x12 {once} --vs form=literal --vs form=literal,dtype=bfloat16"
    )["rows"]
    kinds = [("train", "float32"), ("literal", "float32"), ("literal", "bfloat16")]
    assert [(row["form"], row["dtype"]) for row in rows] == kinds
    assert rows[0]["parameters"] == rows[1]["parameters"] > 0 and rows[1]["median_ms"] > 0
    rows = run(f"train-step --net {net} --batch 2 --patch 12 {once} --vs form=literal")["rows"]
    assert [row["form"] for row in rows] == ["train", "literal"]
    assert all(row["images_per_s"] > 0 for row in rows)


def test_memory_of_a_literal_atd(options_with):
    config = benchmark.parse(["memory", "--net", options_with(ATD_V1), "--form", "literal"]).configs[0]
    row = latency.peak_memory(config, Size(16, 12), threads=1)
    assert row["form"] == "literal" and row["output"] == "32x24"
    assert row["rss_peak_mib"] >= row["rss_before_mib"] > 0


def test_an_atd_that_lost_layers_has_no_literal_twin():
    net = build_network(ATD_V1 | {"kept_layers": [[0], [0]]})
    with pytest.raises(OptionError, match="an ATD that lost layers has no literal form"):
        literal.literal_twin(net)
    groups = build_network(ATD_V1 | {"prune_unit": "layer"})
    assert len(literal.literal_twin(groups).state_dict()) == len(groups.state_dict())


def test_every_round_runs_all_calls_in_turn():
    calls = []
    jobs = [timing.Job("cpu", lambda name=name: calls.append(name), {}) for name in "AB"]
    rows = timing.timed(jobs, warmup=1, runs=2)
    assert calls == ["A", "B"] * 3
    assert [len(row["samples_ms"]) for row in rows] == [2, 2]


@pytest.mark.parametrize(("count", "rank"), [(1, 1), (19, 19), (20, 19), (21, 20), (100, 95)])
def test_p95_is_the_nearest_rank(count, rank):
    assert timing.p95(range(count, 0, -1)) == rank


def test_checkpoint_brings_its_network(run, tmp_path):
    net = build_network(SPEC)
    save_atomically({"params": net.state_dict(), "network_g": SPEC}, tmp_path / "net.pth")
    (row,) = run(f"latency --net {tmp_path / 'net.pth'} --size 8 --warmup 1 --runs 1")["rows"]
    assert row["network"] == "net.pth x2" and row["output"] == "16x16"


def test_preset_without_multiply_adds(run):
    (row,) = run("latency --net Bicubic --scale 3 --form train --size 8 --runs 1")["rows"]
    assert row["output"] == "24x24" and row["multi_adds_attention_G"] is None


def test_train_step(run, tiny):
    command = f"train-step --net {tiny} --batch 2 --patch 12 --warmup 1 --runs 2 --vs form=literal --vs dtype=bfloat16"
    rows = run(command)["rows"]
    kinds = [("train", "float32"), ("literal", "float32"), ("train", "bfloat16")]
    assert [(row["form"], row["dtype"]) for row in rows] == kinds
    assert rows[0]["input"] == "12x12" and rows[0]["batch"] == 2
    assert rows[0]["images_per_s"] == pytest.approx(2e3 / rows[0]["median_ms"])


@pytest.fixture
def precision_kept():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def test_each_configuration_is_built_and_called_in_its_precision(run, tiny, monkeypatch, precision_kept):
    seen = []

    def channels_of(net):  # asked while a job is built
        seen.append(torch.get_float32_matmul_precision())
        return 3

    monkeypatch.setattr(latency, "channels_of", channels_of)
    command = f"latency --net {tiny} --size 8 --warmup 1 --runs 1 --form train --vs precision=high"
    rows = run(f"{command} --vs precision=medium,dtype=bfloat16")["rows"]
    kinds = [("highest", "float32"), ("high", "float32"), ("medium", "bfloat16")]
    assert [(row["precision"], row["dtype"]) for row in rows] == kinds
    assert list(dict.fromkeys(seen)) == ["highest", "high", "medium"]
    seen.clear()
    found = []

    def call():
        found.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))

    jobs = [timing.Job("cpu", call, {}, precision) for precision in ("high", "highest", "medium")]
    timing.timed(jobs, warmup=1, runs=1)
    assert found == [("high", True), ("highest", False), ("medium", True)] * 2


def test_rounds_depend_on_the_device():
    parsed = [benchmark.parse(["latency", "--vs", f"device={device}"]) for device in ("cpu", "cuda", "mps")]
    assert [(args.warmup, args.runs) for args in parsed] == [(2, 9), (10, 50), (10, 50)]
    args = benchmark.parse(["train-step", "--device", "cuda", "--warmup", "1", "--runs", "3"])
    assert (args.warmup, args.runs) == (1, 3)


def test_graph_is_a_key_of_configurations(monkeypatch):
    command = ["latency", "--device", "cuda", "--graph", "--vs", "no-graph", "--vs", "form=literal", "--vs", "compile"]
    configs = benchmark.parse(command).configs
    assert [config.graph for config in configs] == [True, False, True, True]
    assert [config.mode for config in configs] == ["graph", "eager", "graph", "compiled, graph"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(OptionError, match="graph: the literal form waits for the GPU"):
        configs[2].build()


def test_a_function_is_warmed_up_captured_and_replayed_on_copies():
    """By a backend without CUDA; see `TestOnCuda` for the rest."""
    seen = []

    def function(x):
        seen.append(x)
        return x.view(-1).clone()

    backend = FakeBackend()
    first, second = torch.zeros(2, 2), torch.ones(2, 2)
    graphed = timing.Graphed(function, first, backend=backend)
    output = graphed(second)
    assert backend.done == ["run"] * timing.SETTLING_CALLS + ["record", "replay"]
    assert output.tolist() == [1] * 4 and first.sum() == 0  # the caller's tensors are left alone
    assert all(x is seen[0] for x in seen)
    with pytest.raises(ValueError, match="zip"):
        graphed(first, second)
    backend = FakeBackend(fails=RuntimeError("operation not permitted when stream is capturing\nmore"))
    with pytest.raises(OptionError, match=r"cannot be captured \(operation not permitted .* capturing"):
        timing.Graphed(function, first, backend=backend)


def test_launches_are_counted_on_demand(run, options_with, tiny, monkeypatch):
    for module in (latency, training):
        monkeypatch.setattr(module, "in_fresh_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setenv("BASICSR_KERNELS", "0")  # and back
    once = "--warmup 1 --runs 1 --launches"
    rows = run(f"latency --net {tiny} --size 8 16 --form train {once} --vs form=literal")["rows"]
    config = benchmark.parse(["latency", "--net", tiny, "--form", "literal"]).configs[0]
    assert [row["launches"] for row in rows[1::2]] == [
        latency.launches_of_forward(config, Size(side, side)) for side in (8, 16)
    ]
    net, literal = config.build()
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert rows[3]["launches"] == count_launches(lambda: literal(x))
    (row,) = run(f"train-step --net {tiny} --batch 2 --patch 12 {once}")["rows"]
    lq, gt = torch.rand(2, 3, 12, 12), torch.rand(2, 3, 24, 24)
    net.train()
    assert row["launches"] == count_launches(lambda: torch.nn.functional.l1_loss(net(lq), gt).backward())


def test_the_card_is_described(monkeypatch):
    found = SimpleNamespace(name="Card 9000", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: found)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    head = report.card()
    assert head["GPU"] == "Card 9000, 80.0 GiB, compute capability 9.0"
    assert head["driver"] == "unknown" and head["CUDA"].startswith(f"{torch.version.cuda}, cuDNN ")
    assert torch.__version__.startswith(report.version_of("torch"))
    assert report.version_of("no-such-package") == "not installed"


@pytest.mark.slow
def test_memory(tiny, tmp_path):
    stem = tmp_path / "out"
    command = [sys.executable, SCRIPT, "memory", "--net", tiny, "--size", "96", "--threads", "1", "-o", stem]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    (row,) = read(stem, process.stdout)["rows"]
    assert 0 < row["rss_before_mib"] < row["rss_peak_mib"]
    assert row["rss_added_mib"] == pytest.approx(row["rss_peak_mib"] - row["rss_before_mib"])


def test_data(run, tiny, photos):
    command = f"data --net {tiny} --scale 2 --gt {photos} --gt-size 32 --batch 2 --workers 1 --threads 1"
    content = run(f"{command} --runs 1 --batches 3 --steps 2")
    has_lmdb = importlib.util.find_spec("lmdb") is not None
    ways = {row["reading"]: row for row in content["rows"]}
    assert set(ways) >= {"one batch, kept", "folder", "folder, cached", "device cache"}
    assert ("LMDB" in ways) == has_lmdb and any(way.startswith("LMDB") for way in ways)
    assert ways["one batch, kept"]["images_per_s"] is None
    for way in ("folder", "folder, cached", "device cache"):
        row = ways[way]
        assert len(row["samples_wait_ms"]) == len(row["samples_step_ms"]) == 2 and len(row["samples_reading_ms"]) == 3
        assert row["images_per_s"] == pytest.approx(2e3 * 3 / sum(row["samples_reading_ms"]))
        assert 0 <= row["waiting_percent"] < 100 and row["needed_per_s"] > 0


def test_ways_of_reading_that_fail_are_named(run, tiny, photos, tmp_path, monkeypatch):
    failing = tmp_path / "create_lmdb.py"
    failing.write_text("raise SystemExit('create_lmdb: the package lmdb is missing')")
    monkeypatch.setattr(reading, "CREATE_LMDB", failing)
    monkeypatch.setattr(device_cache, "memory_limit", lambda device: 0)
    command = f"data --net {tiny} --scale 2 --gt {photos} --gt-size 32 --batch 1 --workers 0"
    ways = [row["reading"] for row in run(f"{command} --runs 1 --batches 1 --steps 1")["rows"]]
    assert "LMDB: not measured (create_lmdb: the package lmdb is missing)" in ways
    assert any(way.startswith("device cache: not measured (the images take 0.3 MiB") for way in ways)


def test_photographs_of_scikit_image(tmp_path):
    pytest.importorskip("skimage")
    from basicsr.data.paired_image_dataset import PairedImageDataset

    roots = reading.photographs(tmp_path, 4)
    dataset = PairedImageDataset(
        dataroot_gt=str(roots["gt"]), dataroot_lq=str(roots["lq"]), filename_tmpl="{}x4", scale=4, gt_size=256
    )
    assert len(dataset) == len(reading.PHOTOS)


def test_video(run, tmp_path):
    pytest.importorskip("av")
    content = run("video --net Bicubic --scale 2 --size 48x32 --frames 6 --runs 1 --batch 2 --codec h264 --preset fast")
    (row,) = content["rows"]
    assert (row["input"], row["output"], row["frames"]) == ("48x32", "96x64", 6)
    assert row["encoder"] == "H.264 (libx264, crf 18, preset fast, yuv420p)"
    assert row["fps"] > 0 and row["network_alone_fps"] > 0
    assert row["cost_of_video"] == pytest.approx(1 - row["fps"] / row["network_alone_fps"])
    assert sum(row[f"{stage}_share"] for stage in ("decoding", "network", "encoding")) == pytest.approx(1)


def test_compare(run, tmp_path):
    point = {"network": "N x2", "form": "train", "input": "8x8"}
    for name, factor in (("a", 1), ("b", 3)):
        rows = [{**point, "median_ms": 2.0 * factor, "matmuls": 0.5}, {"network": name, "median_ms": 1.0}]
        content = {"kind": "latency", "head": {"PyTorch": name, "OS": "same"}, "rows": rows, "notes": []}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        point = {**point, "precision": "highest"}  # which older files do not say
    content = run(f"compare {tmp_path / 'a.json'} {tmp_path / 'b.json'} {tmp_path / 'a.json'}")
    assert content["rows"] == [
        {"what": "N x2, train, 8x8", "measure": "median ms", "A": 2, "B": 6, "C": 2, "B / A": 3, "C / A": 1},
        {"what": "N x2, train, 8x8", "measure": "matmuls", "A": 0.5, "B": 0.5, "C": 0.5, "B / A": 1, "C / A": 1},
    ]
    assert content["head"]["B"] == f"{tmp_path / 'b.json'}; PyTorch: b"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["latency", "--net", "Bicubic"], "Bicubic has no prepared form"),
        (["latency", "--graph"], "graph: CUDA graphs need device cuda, got cpu; use no-graph"),
        (["train-step", "--graph"], "graph: CUDA graphs need device cuda, got cpu; use no-graph"),
        (["latency", "--net", "ATD-light"], "ATD has no prepared form, test.py runs it as it is; use form train"),
        (["latency", "--net", "Bicubic", "--form", "literal"], "only CATANet, ATD, ATDUNet have a literal form"),
        (["latency", "--net", "CATANot"], "no architecture is called 'CATANot'"),
        (["latency", "--net", "missing.pth"], "missing.pth: no such file"),
        (["compare", "missing.json"], "missing.json"),
    ],
)
def test_user_errors_end_in_one_line(tmp_path, capsys, arguments, message):
    assert benchmark.main([*arguments, "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("benchmark: ") and message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changes", ["runs=3", "form=fast", "dtype", "", "precision=low", "graph=yes", "launches"])
def test_wrong_variations_are_errors(changes, capsys):
    with pytest.raises(SystemExit) as caught:
        benchmark.main(["latency", f"--vs={changes}"])
    assert caught.value.code == 2 and "error:" in capsys.readouterr().err


@pytest.mark.parametrize("page", ["performance.md", "atd.md", "inference.md"])
def test_commands_of_the_documentation_are_commands(page):
    text = (SCRIPT.parents[1] / "docs" / page).read_text().replace("\\\n", " ")
    commands = [line for line in text.splitlines() if line.startswith("python scripts/benchmark.py")]
    for command in commands:
        args = benchmark.parse(shlex.split(command)[2:])
        assert len(args.configs) == 1 + len(args.vs)
    assert len(commands) > 1


@pytest.mark.gpu
@pytest.mark.usefixtures("precision_kept")
class TestOnCuda:
    def test_latency_and_memory_of_every_form(self, run, tiny):
        rows = run(
            f"latency --net {tiny} --size 16 --device cuda --graph --warmup 2 --runs 3 --vs no-graph,form=literal "
            "--vs form=train,precision=high --vs dtype=bfloat16 --vs form=train,dtype=float16,no-graph"
        )["rows"]
        assert [row["mode"] for row in rows] == ["graph", "eager", "graph", "graph", "eager"]
        assert all(row["median_ms"] > 0 and row["cuda_peak_mib"] > 0 for row in rows)

    @pytest.mark.parametrize("name", ["v1", "v2", "U"])
    def test_the_literal_atd_family_runs(self, run, options_with, name):
        command = f"latency --net {options_with(FAMILY[name])} --form train --size 9x12 --device cuda"
        rows = run(f"{command} --warmup 1 --runs 1 --vs form=literal")["rows"]
        assert [row["form"] for row in rows] == ["train", "literal"]

    def test_training_steps(self, run, tiny):
        content = run(
            f"train-step --net {tiny} --batch 2 --patch 12 --device cuda --graph --warmup 1 --runs 2 --vs no-graph "
            "--vs no-graph,form=literal --vs dtype=bfloat16"
        )
        assert [row["mode"] for row in content["rows"]] == ["graph", "eager", "eager", "graph"]
        assert torch.cuda.get_device_name() in content["head"]["GPU"] and content["head"]["driver"]

    def test_a_replay_is_a_call(self):
        net = torch.nn.Conv2d(3, 8, 3).cuda()
        graphed = timing.Graphed(lambda x: net(x).relu(), torch.rand(1, 3, 16, 16, device="cuda"))
        for _ in range(2):
            x = torch.rand(1, 3, 16, 16, device="cuda")
            torch.testing.assert_close(graphed(x), net(x).relu())

    def test_a_replayed_training_step_is_a_training_step(self):
        weights = {}
        for graph in (False, True):
            torch.manual_seed(0)
            net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 3, 1)).cuda()
            batches = [[torch.rand(2, 3, 8, 8, device="cuda") for _ in range(2)] for _ in range(3)]
            config = Config("net", 1, None, "train", "float32", "cuda", False, graph)
            step = training.training_step(config, net)
            for batch in [batches[0]] * timing.SETTLING_CALLS if not graph else []:
                step(*batch)
            step = timing.Graphed(step, *batches[0]) if graph else step
            for batch in batches:
                step(*batch)
            weights[graph] = net.state_dict()
        torch.testing.assert_close(weights[True], weights[False], rtol=1e-3, atol=1e-5)

    def test_what_waits_for_the_gpu_cannot_be_captured(self):
        code = "import torch; from benchmarks.timing import Graphed; "
        code += "Graphed(lambda x: x * float(x.sum()), torch.rand(4, device='cuda'))"
        # In a process of its own, because a capture that failed leaves traces.
        command = [sys.executable, "-c", code]
        process = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parent)
        assert "graph: this network cannot be captured" in process.stderr
