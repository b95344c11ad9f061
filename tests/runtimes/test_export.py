"""Exported networks: what their files hold, that they give PyTorch's numbers, and the errors of the command."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from runtimes.exported import NETS, ONE_BLOCK, saved, trained
from torch import nn

from basicsr.archs import build_network
from basicsr.archs.catanet_arch import TINY as TINY_CATANET
from basicsr.archs.layers.group_hook import group_choices
from basicsr.errors import CheckpointError, OptionError
from basicsr.export import main
from basicsr.runtimes.manifest import MANIFEST
from basicsr.runtimes.parity import Agreement, Sample, compare, drawn_picture, samples_of
from basicsr.runtimes.request import EXTRAS
from basicsr.runtimes.trace import OLDEST_TORCH, for_graph, side_rule, traced

onnx = pytest.importorskip("onnx", reason="needs the extra `export`")
pytest.importorskip("onnxscript", reason="needs the extra `export`")
pytest.importorskip("onnxruntime", reason="needs the extra `export`")
if torch.__version__ < OLDEST_TORCH:
    pytest.skip("exports need a newer PyTorch", allow_module_level=True)
from basicsr.runtimes import onnx as onnx_file  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A weight file, its network, and the exported models: for any size, and for 24x24. Do not write to its folder."""
    net = trained(ONE_BLOCK)
    path = saved(net, ONE_BLOCK, tmp_path_factory.mktemp("small") / "small.pth")
    assert main(["-m", str(path), "-o", str(path.parent / "out"), "--tile", "24"]) == 0
    models = {None: onnx.load(path.parent / "out/small_dynamic.onnx")}
    models[24, 24] = onnx.load(path.parent / "out/small_24x24.onnx")
    return path, net, models


# Files


@pytest.mark.parametrize("size", [None, (24, 24)], ids=["any size", "24x24"])
def test_file_runs_everywhere_and_gives_the_same(small, size):
    _, net, models = small
    model = models[size]
    onnx_file.check_model(model, size, 20)  # opset, input sides, rank, 32-bit indices
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["ScatterElements"] == kinds["ArgMax"] == 1
    assert not {"TopK", "NonZero", "Attention", "GatherND"} & set(kinds)
    assert kinds["Gather"] > 0
    assert onnx_file.wide_indices(model) == []
    run, with_groups = onnx_file.OnnxNet(model, 1), onnx_file.OnnxNet(onnx_file.with_groups(model), 1)
    for h, w in [size] if size else [(9, 64), (40, 40), (61, 33)]:
        sample = Sample("x", np.random.rand(1, 3, h, w).astype(np.float32))
        agreement = compare(net.prepared(), run, sample, with_groups)
        assert agreement.faults() == []
        assert agreement.tokens == h * w


def test_scores_are_held_for_one_head_where_their_number_is_not_known(small):
    heads = TINY_CATANET["heads"]
    for size, expected in ((None, {1}), ((24, 24), {heads})):
        model = onnx.shape_inference.infer_shapes(small[2][size])
        shapes = {info.name: info.type.tensor_type.shape.dim for info in model.graph.value_info}
        scores = [shapes[node.output[0]] for node in model.graph.node if node.op_type == "Softmax"]
        assert {dims[1].dim_value for dims in scores if len(dims) == 4} == expected


def test_nothing_of_this_machine_is_in_the_file(small):
    for model in small[2].values():
        content = model.SerializeToString()
        assert b"site-packages" not in content
        assert b".py" not in content


def test_wide_indices_are_found(small):
    model = onnx.ModelProto()
    model.CopyFrom(small[2][(24, 24)])
    node = next(node for node in model.graph.node if node.op_type == "Gather")
    cast = onnx.helper.make_node("Cast", [node.input[1]], ["wide"], to=onnx.TensorProto.INT64)
    node.input[1] = "wide"
    model.graph.node.insert(list(model.graph.node).index(node), cast)
    with pytest.raises(RuntimeError, match="64-bit indices"):
        onnx_file.check_model(model, (24, 24), 20)


def test_a_model_of_another_size_is_found(small):
    models = small[2]
    with pytest.raises(RuntimeError, match=r"fixed sides, \[24, 24\]"):
        onnx_file.check_model(models[(24, 24)], None, 20)
    with pytest.raises(RuntimeError, match="should have"):
        onnx_file.check_model(models[None], (24, 24), 20)
    with pytest.raises(RuntimeError, match="opset 21"):
        onnx_file.check_model(models[None], None, 21)


class Rows(nn.Module):
    """Code that goes through the rows of its input one by one, as no graph for any height can."""

    def forward(self, x):
        return torch.cat([x[:, :, i : i + 1] * (1 + i) for i in range(x.shape[2])], dim=2)


def test_a_side_that_the_code_fixes_is_an_error():
    with pytest.raises(OptionError, match=r"Rows: its code fixes a side.*--no-dynamic"):
        traced(Rows(), 3, None, (8, 1))


@pytest.mark.parametrize(
    "name", ["atd v1", *(pytest.param(name, marks=pytest.mark.slow) for name in ("atd v2", "atd-u"))]
)
def test_atd_of_one_size(name):
    net = trained(NETS[name])
    model = onnx_file.onnx_model(traced(for_graph(net), 3, (20, 24)), 20)
    onnx_file.check_model(model, (20, 24), 20)
    x = np.random.rand(1, 3, 20, 24).astype(np.float32)
    run, with_groups = onnx_file.OnnxNet(model, 1), onnx_file.OnnxNet(onnx_file.with_groups(model), 1)
    agreement = compare(net, run, Sample("x", x), with_groups)
    assert agreement.tokens > 0
    assert agreement.faults() == []


@pytest.mark.slow  # the quick ones export CATANet for any size, and ATD-U for one
def test_atd_u_of_any_size():
    net = trained(NETS["atd-u"])
    rule = side_rule(net)
    assert rule == (8, 8)
    model = onnx_file.onnx_model(traced(for_graph(net), 3, None, rule), 20)
    onnx_file.check_model(model, None, 20)
    run, with_groups = onnx_file.OnnxNet(model, 1), onnx_file.OnnxNet(onnx_file.with_groups(model), 1)
    for h, w in [(8, 8), (24, 32), (48, 16)]:
        sample = Sample("x", np.random.rand(1, 3, h, w).astype(np.float32))
        assert compare(net, run, sample, with_groups).faults() == []


# Parity


def agreement(**kwargs):
    facts = {"input": "x", "height": 8, "width": 8, "mean": 1e-7, "max": 1e-6, "psnr": 30.0, "psnr_difference": 0.0}
    return Agreement(**{**facts, "tokens": 64, "max_same_groups": 1e-6, **kwargs})


@pytest.mark.parametrize(
    ("kwargs", "fault"),
    [
        ({}, None),
        ({"mean": 2e-5}, "mean error"),
        ({"mean": float("nan")}, "mean error"),
        ({"mean": 2e-5, "moved": 1, "widest_tie": 1e-6}, None),
        ({"mean": 3e-4, "moved": 1, "widest_tie": 1e-6}, "mean error"),
        ({"moved": 1, "widest_tie": 1e-3}, "score by which groups differ"),
        ({"max": 0.01}, "largest error"),
        ({"psnr_difference": -0.002}, "PSNR difference"),
        ({"max_same_groups": 2e-5}, "largest error with the same groups"),
    ],
)
def test_limits(kwargs, fault):
    found = agreement(**kwargs)
    faults = found.faults()
    assert found.is_explained == (fault not in ("score by which groups differ", "largest error with the same groups"))
    assert [text.split(" 0")[0].split(" nan")[0][: len(fault)] for text in faults] == [fault] if fault else not faults


def test_a_token_at_a_tie_may_move(small):
    """A runtime that moves tokens at ties is right, one that moves others is not."""
    _, net, _ = small
    prepared = net.prepared()
    x = np.random.rand(1, 3, 20, 20).astype(np.float32)
    with torch.inference_mode(), group_choices() as own:
        prepared(torch.from_numpy(x))
    other = own.chosen[0].clone()
    other[0, 5] = (other[0, 5] + 1) % 4

    def run(lq):
        with torch.inference_mode(), group_choices([other]):
            return [prepared(torch.from_numpy(lq)).numpy(), other.numpy()]

    found = compare(prepared, run, Sample("x", x), run)
    assert found.moved == 1
    assert found.max_same_groups == 0
    assert any("score by which groups differ" in fault for fault in found.faults())


def test_samples_have_the_sizes_asked_for():
    photo = drawn_picture(90, 130, 3)
    *windows, last = samples_of(photo, "p", 2, [(20, 31), (64, 64)], (50, 50), False)
    assert [sample.lq.shape for sample in windows] == [(1, 3, 20, 31), (1, 3, 64, 64)]
    assert last.lq.shape == (1, 3, 45, 50)
    assert last.gt is not None and last.gt.shape == (1, 3, 90, 100)
    with pytest.raises(CheckpointError, match="p: has 130x90 px"):
        samples_of(photo, "p", 2, [], (64, 64), True)


# The command


def check_export(folder, weights, tile):
    """Check the files of an export and their entries in the manifest; return the manifest."""
    manifest = json.loads((folder / MANIFEST).read_text())
    names = {f"{weights.stem}_{tile}x{tile}.onnx", f"{weights.stem}_dynamic.onnx", MANIFEST}
    assert {path.name for path in folder.iterdir()} == names
    assert manifest["source"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    dynamic, static = manifest["files"]
    assert (dynamic["height"], static["height"], static["width"], static["tile"]) == (None, tile, tile, tile)
    assert (dynamic["for"], static["for"]) == (["wasm", "desktop"], ["webgpu"])
    for facts in manifest["files"]:
        data = (folder / facts["file"]).read_bytes()
        assert facts["sha256"] == hashlib.sha256(data).hexdigest()
        assert facts["bytes"] == len(data)
        assert facts["nodes"] == len(onnx.load_from_string(data).graph.node)
        assert facts["opset"] == 20
        parity = manifest["parity"]["files"][facts["file"]]
        assert len(parity) == 4
        assert all(case["max_same_groups"] < 1e-5 and case["max"] < 2 / 255 for case in parity)
        assert abs(parity[-1]["psnr_difference"]) < 1e-3
    return manifest


def test_files_and_manifest(small):
    path, *_ = small
    manifest = check_export(path.parent / "out", path, 24)
    assert manifest["name"] == "CATANet x2"
    assert (manifest["scale"], manifest["channels"], manifest["min_side"]) == (2, 3, 9)


@pytest.mark.slow
def test_shipped_network(shipped_export):
    """The files of the network in the repository are small."""
    manifest = check_export(shipped_export, ROOT / "pretrained_models/CATANet-XS-D_x4.pth", 64)
    assert manifest["name"] == "CATANet-XS-D x4"
    assert (manifest["scale"], manifest["channels"], manifest["min_side"]) == (4, 3, 29)
    assert all(facts["bytes"] < 3_000_000 and facts["nodes"] < 3_000 for facts in manifest["files"])
    assert manifest["files"][1]["nodes"] < 700


def test_int8_and_float16_after_existing_files_were_kept(small, photos, tmp_path, capsys):
    (tmp_path / MANIFEST).write_text("mine")
    arguments = ["-m", str(small[0]), "-o", str(tmp_path), "--no-dynamic", "--tile", "24"]
    arguments += ["--dtype", "float32", "float16", "--int8", "--calibrate", str(photos)]
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / MANIFEST).read_text() == "mine"
    assert main([*arguments, "--overwrite"]) == 0
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert manifest["name"] == "CATANet x2"
    files = {facts["dtype"]: facts for facts in manifest["files"]}
    assert list(files) == ["float32", "float16", "int8"]
    assert files["float16"]["bytes"] < files["float32"]["bytes"]
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / files["int8"]["file"]).graph.node)
    assert kinds["QuantizeLinear"] > 0


def test_nothing_is_written_when_numbers_differ(small, tmp_path, monkeypatch, capsys):
    path, *_ = small
    monkeypatch.setattr("basicsr.runtimes.parity.MAX_ERROR_SAME_GROUPS", 0.0)
    assert main(["-m", str(path), "-o", str(tmp_path / "out"), "--no-dynamic", "--tile", "24"]) == 1
    assert "differs from PyTorch" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tile", "0"], "--tile: must be at least 1 px"),
        (["--no-dynamic", "--tile"], "--no-dynamic: leaves no file"),
        (["--int8"], "--int8: needs photographs"),
        (["--photo", "nowhere.png"], "nowhere.png"),
    ],
)
def test_errors_of_arguments(small, tmp_path, capsys, arguments, message):
    assert main(["-m", str(small[0]), "-o", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_missing_weights_and_missing_centres(tmp_path, capsys):
    assert main(["-m", str(tmp_path / "none.pth"), "-o", str(tmp_path)]) == 2
    assert "none.pth: no such file" in capsys.readouterr().err
    path = saved(build_network(ONE_BLOCK), ONE_BLOCK, tmp_path / "untrained.pth")
    assert main(["-m", str(path), "-o", str(tmp_path / "out")]) == 2
    assert "train it before you export it" in capsys.readouterr().err


def test_missing_packages_are_named(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(EXTRAS, "onnx", ("export", ("no_such_module",)))
    assert main(["-m", str(small[0]), "-o", str(tmp_path)]) == 2
    assert "pip install 'basicsr[export]'" in capsys.readouterr().err


# Other runtimes


def test_openvino_reads_the_file(small, tmp_path):
    openvino = pytest.importorskip("openvino", reason="needs the extra `openvino`")
    _, net, models = small
    onnx.save(models[None], tmp_path / "net.onnx")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(str(tmp_path / "net.onnx"), "CPU", settings)
    x = np.random.rand(1, 3, 40, 33).astype(np.float32)
    agreement = compare(net.prepared(), lambda lq: [compiled([lq])[0]], Sample("x", x))
    assert agreement.max < 2 / 255
    assert agreement.mean < 2e-4


def test_executorch_program(small, tmp_path):
    pytest.importorskip("executorch", reason="needs the extra `executorch`")
    assert main(["-m", str(small[0]), "-o", str(tmp_path), "--for", "phone", "--tile", "24"]) == 0
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert [facts["file"] for facts in manifest["files"]] == ["small_24x24.pte"]
    assert manifest["files"][0]["for"] == ["android", "ios"]
    assert all(case["max_same_groups"] < 1e-5 for case in manifest["parity"]["files"]["small_24x24.pte"])


def test_axes_have_names(small):
    model = onnx.load(small[0].parent / "out/small_dynamic.onnx")
    names = ["height", "width"], ["sr_height", "sr_width"]
    for value, expected in zip((model.graph.input[0], model.graph.output[0]), names, strict=True):
        sides = value.type.tensor_type.shape.dim
        assert [side.dim_param for side in sides[2:]] == expected
        assert [side.dim_value for side in sides[:2]] == [1, 3]


def test_an_existing_file_as_output_is_refused_at_once(tmp_path, capsys):
    (tmp_path / "out.onnx").touch()
    assert main(["-m", "missing.pth", "-o", str(tmp_path / "out.onnx")]) == 2
    assert "out.onnx is a file; name a folder" in capsys.readouterr().err
