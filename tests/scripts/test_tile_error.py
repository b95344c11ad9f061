"""The script that measures the error of tiles."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from basicsr.archs import atd_arch, build_network
from basicsr.engine.checkpoint import save_atomically
from basicsr.images.files import read_image, write_image

PATH = Path(__file__).parents[2] / "scripts/tile_error.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("tile_error", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    spec = {"type": "ATD", "upscale": 2, **atd_arch.TINY}
    save_atomically({"params": build_network(spec).state_dict(), "network_g": spec}, tmp_path / "own.pth")
    return str(tmp_path / "own.pth")


def test_the_table(script, model, photos, tmp_path, capsys):
    write_image(tmp_path / "in/a.png", np.ascontiguousarray(read_image(photos / "coffee.png")[:80, :81]))
    command = f"-m {model} -i {tmp_path / 'in'} --side 30 --tile 16 24 64 --overlap 8 12"
    arguments = command.split()
    assert script.main(arguments) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert "1 images, whole image " in lines[0]
    assert lines[2] == "| overlap | tile 16 | tile 24 | tile 64 |"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:]]
    assert [row[0] for row in cells] == ["8", "12"]
    assert cells[1][1] == "" and {row[3] for row in cells} == {""}  # too much overlap, no image larger than a tile
    for cell in (cells[0][1], cells[0][2], cells[1][2]):
        value, change = cell.split(" (")
        assert 10 < float(value) < 90 and abs(float(change.strip(")"))) < 3
    assert script.main([*arguments, "--inputs"]) == 0
    out = capsys.readouterr().out
    assert "whole image" not in out and "(+" not in out and "(-" not in out


def test_the_figure_is_the_psnr_to_the_whole(script):
    class Marks:
        """A network that darkens the left column of each tile by a tenth."""

        @staticmethod
        def predict(lq):
            out = lq.clone()
            out[..., 0] -= 0.1
            return out

    lq = torch.full((1, 3, 4, 8), 0.5)
    sample = script.Sample(lq, Marks.predict(lq), Marks.predict(lq))
    expected = -10 * math.log10(0.01 / 8)  # one column of eight is wrong
    assert script.tile_errors(Marks, [sample], 4, 0, 0) == f"{expected:.1f} ({-math.inf:+.3f})"
    assert script.tile_errors(Marks, [sample], 8, 0, 0) == ""
    assert script.psnr(lq, lq) == math.inf
