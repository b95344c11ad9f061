"""scripts/web.py, which prepares the site, and what the site then holds."""

import json
import math
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image

import web_browser

pytestmark = pytest.mark.skipif(torch.__version__ < (2, 10), reason="exports need a newer PyTorch")


def test_installable(web):
    manifest = json.loads((web.SITE / "manifest.webmanifest").read_text())
    assert {"name", "short_name", "start_url", "display"} <= set(manifest)
    sizes = {(icon["sizes"], icon.get("purpose")) for icon in manifest["icons"]}
    assert sizes == {("192x192", None), ("512x512", None), ("512x512", "maskable")}
    for icon in manifest["icons"]:
        with Image.open(web.SITE / icon["src"]) as image:
            assert f"{image.width}x{image.height}" == icon["sizes"]


def test_precache_lists_all_that_the_page_needs(site):
    text = (site / "precache.js").read_text()
    files = json.loads(text[text.index("{") : text.rindex("}") + 1])["files"]
    served = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    not_needed = {"precache.js", "sw.js", "package.json", "npm.lock.json", "vendor/LICENSE"}
    assert served - not_needed == set(files)
    assert {file["group"] for file in files.values()} == {"page", "wasm", "webgpu", "webgpu-float16", "webgpu-float32"}
    networks = {name: file["group"] for name, file in files.items() if name.endswith(".onnx")}
    for folder in ("CATANet-XS_photo_x2", "CATANet-XS_photo_x4", "CATANet-XS_x2", "CATANet-XS_x4"):
        groups = sorted(group for name, group in networks.items() if name.split("/")[1] == folder)
        assert groups == ["wasm", "webgpu-float16", "webgpu-float32"], folder
    assert sum((site / name).stat().st_size for name, group in networks.items() if group == "wasm") < 5e6


def test_a_tile_takes_little_memory(site):
    """The heap of the CPU build, which keeps its largest size, after a tile: 533 MB with the scores of all heads."""
    network = site / "models/CATANet-XS_photo_x2/CATANet-XS_x2_photo_dynamic.onnx"
    command = ["node", Path(__file__).with_name("heap.mjs"), site / "vendor/ort.wasm.min.mjs", network, "128"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-3000:]
    assert 10e6 < json.loads(process.stdout)["heap"] < 200e6


def test_tensors_of_tiles_fit_buffers_of_webgpu(site):
    onnx = pytest.importorskip("onnx")
    for path in site.glob("models/*/*_128x128.onnx"):
        model = onnx.shape_inference.infer_shapes(onnx.load(path))
        sides = [[d.dim_value for d in info.type.tensor_type.shape.dim] for info in model.graph.value_info]
        assert 32e6 < max(4 * math.prod(dims) for dims in sides) <= 2**27, path.name


@pytest.mark.slow
def test_one_photograph_is_measured(web, site, programs, inputs, tmp_path):
    report = web_browser.measure_photo(site, programs, tmp_path, inputs / "photo.png", 2)
    assert "- Picture: 134 × 65 → 268 × 130" in report
    for phase in ("loaded", "job", "reload", "png", "jpeg"):
        browser, page = re.search(rf"\| {phase} \| \d+ \| (\d+) MB \| (\d+) MB \|", report).groups()
        assert int(browser) >= int(page), report
    assert int(re.search(r"\| reload .* (\d+) MB \|", report)[1]) > 50  # Linux tells; it lasts for seconds
    with Image.open(tmp_path / "photograph.png") as png, Image.open(tmp_path / "photograph.jpg") as jpeg:
        assert png.size == jpeg.size == (268, 130)
    with pytest.raises(web.WebError, match="no such photograph"):
        web_browser.measure_photo(site, programs, tmp_path, tmp_path / "none.jpg", 2)


class TestScript:
    def test_npm_missing(self, web, tmp_path, monkeypatch):
        monkeypatch.setattr(web.shutil, "which", lambda name: None)
        with pytest.raises(web.WebError, match="apt-get install nodejs npm"):
            web.put_runtime(web.read_lock(web.SITE), tmp_path / "vendor", tmp_path / "cache")

    def test_files_that_differ_from_the_lock_are_an_error(self, web, tmp_path):
        package = tmp_path / "onnxruntime-web-1.30.0/dist"
        package.mkdir(parents=True)
        for name in web.read_lock(web.SITE)["onnxruntime-web"]["files"]:
            (package / name).write_text("changed")
        with pytest.raises(web.WebError, match="SHA-256 is"):
            web.put_runtime(web.read_lock(web.SITE), tmp_path / "vendor", tmp_path)
        assert not list((tmp_path / "vendor").glob("*.wasm"))

    def test_model_missing(self, web, tmp_path, capsys):
        site = tmp_path / "site"
        shutil.copytree(web.SITE, site, ignore=shutil.ignore_patterns("models", "vendor"))
        assert web.main(["--site", str(site), "--model", str(tmp_path / "none.pth")]) == 2
        assert (
            capsys.readouterr().err == f"web: {tmp_path}/none.pth: no such file; give the weights with --model FILE\n"
        )

    def test_incomplete_site_is_not_listed(self, web, tmp_path):
        site = tmp_path / "site"
        shutil.copytree(web.SITE, site, ignore=shutil.ignore_patterns("models", "vendor"))
        (site / "models/A_x3").mkdir(parents=True)
        (site / "models/A_x3/manifest.json").write_text(json.dumps({"files": [{"file": "x.onnx", "for": ["wasm"]}]}))
        with pytest.raises(web.WebError, match=r"lacks .*ort\.wasm\.min\.mjs.*models/A_x3/x\.onnx"):
            web.write_precache(site)

    def test_exports_once(self, web, model_folder, tmp_path, capsys):
        folder = tmp_path / "models"
        shutil.copytree(model_folder, folder)
        for manifest in folder.glob("*/manifest.json"):
            os.utime(manifest)
        (folder / "CATANet-XS_x3").mkdir()  # of an earlier run with other weights
        web.export_networks(web.SHIPPED, folder, web.DEFAULT_TILE, tmp_path)
        assert capsys.readouterr().out.count("exported already") == 4
        assert not (folder / "CATANet-XS_x3").exists()
        assert json.loads((folder / "networks.json").read_text()) == [
            {"id": "CATANet-XS_photo", "label": "Photographs", "scales": [2, 4]},
            {"id": "CATANet-XS", "label": "Clean pictures", "scales": [2, 4]},
        ]

    def test_two_networks_of_one_name_and_scale_are_an_error(self, web, model_folder, tmp_path):
        folder = tmp_path / "models"
        shutil.copytree(model_folder, folder)
        for manifest in folder.glob("*/manifest.json"):
            os.utime(manifest)
        twin = tmp_path / "twin.pth"
        shutil.copy(web.SHIPPED[0], twin)
        with pytest.raises(web.WebError, match=r"twin\.pth and .*_x2_photo\.pth are both CATANet-XS_photo_x2"):
            web.export_networks([web.SHIPPED[0], twin], folder, web.DEFAULT_TILE, tmp_path)

    def test_a_changed_model_file_is_exported_again(self, web, model_folder, photo_networks, tmp_path):
        folder, model = tmp_path / "x2", photo_networks[2]
        shutil.copytree(model_folder / "CATANet-XS_photo_x2", folder)
        os.utime(folder / "manifest.json")
        assert web.is_exported(model, folder, web.DEFAULT_TILE)
        assert not web.is_exported(photo_networks[4], folder, web.DEFAULT_TILE)
        assert not web.is_exported(model, folder, web.DEFAULT_TILE + 8)
        os.utime(folder / "manifest.json", (0, 0))  # older than the exporter
        assert not web.is_exported(model, folder, web.DEFAULT_TILE)
        os.utime(folder / "manifest.json")
        assert web.is_exported(model, folder, web.DEFAULT_TILE)
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / manifest["files"][0]["file"]).write_bytes(b"")
        assert not web.is_exported(model, folder, web.DEFAULT_TILE)
