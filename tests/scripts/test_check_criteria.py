import json

import pytest

from basicsr.archs import build_network
from basicsr.pruning.compaction import compact, network_spec

SCRIPT = "check_criteria.py"
ATD_WITHOUT_X2 = {
    "type": "ATD", "upscale": 4, "embed_dim": 8, "depths": [1], "num_heads": [2], "window_size": 4, "category_size": 8,
    "num_tokens": 4, "reducted_dim": 2, "mlp_ratio": 1, "upsampler": "nearest+conv",
}  # fmt: skip


def catanet_l_with(groups):
    return compact(build_network({"type": "CATANet", "upscale": 4}), range(groups))


@pytest.fixture
def table(script, tmp_path, capsys):
    """Runs the script on a report; returns the exit code and the cells of each row by criterion."""

    def table(net, **changes):
        params = sum(p.numel() for p in net.parameters())
        report = {
            "compact": {"params": params, "network_g": network_spec(net)},
            "equality": {"1x3x64x64": 0.0, "2x3x48x80": 2e-7},
            "equality_dtype": "float32",
            "equality_tolerance": 1e-6,
            **changes,
        }
        (tmp_path / "prune_report.json").write_text(json.dumps(report))
        code = script.main([str(tmp_path)])
        lines = capsys.readouterr().out.splitlines()
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
        return code, {row[0]: row[2:] for row in rows}

    return table


def test_parameters_are_judged_at_x2(table):
    code, rows = table(catanet_l_with(3))
    assert list(rows) == ["C1", "C2", "C3", "C4", "C5", "C6", "C7"]
    assert rows["C1"] == ["216,515", "< 230,000", "pass", "at x2"]
    assert rows["C5"] == ["2e-07", "<= 1e-06", "pass", "in float32"]
    assert {rows[key][2] for key in ("C2", "C3", "C4", "C6", "C7")} == {"not measured"}
    assert code == 0


def test_failures_are_the_exit_code(table):
    code, rows = table(catanet_l_with(4), equality_dtype="float64")
    assert code == 1 and rows["C1"][:3] == ["268,699", "< 230,000", "fail"]
    code, rows = table(catanet_l_with(3), equality={"1x3x64x64": 2e-6})
    assert code == 1 and rows["C5"][2] == "fail"


def test_a_network_without_x2_is_judged_at_its_own_scale(table):
    _, rows = table(build_network(ATD_WITHOUT_X2))
    assert rows["C1"][3] == "at x4"


def test_reports_that_cannot_be_judged(refused, tmp_path):
    assert "prune_report.json: no such file; name the folder of a search" in refused(tmp_path)
    for text in ("{", "[]", "{}", '{"compact": 3}'):
        (tmp_path / "prune_report.json").write_text(text)
        assert "prune_report.json: is no report of a search" in refused(tmp_path)
