import math
import os

import numpy as np
import pytest

from basicsr.pruning.mask_log import MaskLog, read_mask_log


def test_log_comes_back_as_it_was_written(tmp_path):
    log = MaskLog(tmp_path / "new" / "mask_log.csv")
    log.append({"iter": 100, "phase": "warmup", "mode": "00010001", "tau": 1 / 3})
    log.append({"iter": np.int64(200), "phase": "search", "mode": "10010001", "tau": np.float32(0.5)})
    columns = read_mask_log(log.path)
    assert list(columns) == ["iter", "phase", "mode", "tau"]
    assert columns["iter"] == [100, 200] and columns["phase"] == ["warmup", "search"]
    assert columns["mode"] == ["00010001", "10010001"]
    assert columns["tau"] == pytest.approx([1 / 3, 0.5], rel=1e-8)


def test_a_key_that_comes_later_becomes_a_column_and_a_missing_one_is_nan(tmp_path):
    log = MaskLog(tmp_path / "log.csv")
    log.append({"iter": 1, "l_pix": 0.5})
    log.append({"iter": 2, "l_pix": 0.25, "l_sa": 3.0})
    log.append({"iter": 3})
    columns = read_mask_log(log.path)
    assert columns["iter"] == [1, 2, 3] and columns["l_pix"][:2] == [0.5, 0.25] and columns["l_sa"][1] == 3
    assert math.isnan(columns["l_sa"][0]) and math.isnan(columns["l_pix"][2]) and math.isnan(columns["l_sa"][2])


def test_another_process_goes_on_with_the_columns_of_the_file(tmp_path):
    MaskLog(tmp_path / "log.csv").append({"iter": 1, "tau": 4.0, "eps": 0.5})
    MaskLog(tmp_path / "log.csv").append({"eps": 0.25, "iter": 2, "tau": 3.0})
    assert read_mask_log(tmp_path / "log.csv") == {"iter": [1, 2], "tau": [4.0, 3.0], "eps": [0.5, 0.25]}


def test_truncate_drops_what_a_resumed_run_writes_again(tmp_path):
    log = MaskLog(tmp_path / "log.csv")
    log.truncate(100)
    assert not log.path.exists()
    for it in (100, 200, 300):
        log.append({"iter": it, "tau": float(it)})
    log.truncate(200)
    log.append({"iter": 300, "tau": -1.0})
    assert read_mask_log(log.path) == {"iter": [100, 200, 300], "tau": [100.0, 200.0, -1.0]}
    log.truncate(0)
    assert read_mask_log(log.path) == {"iter": [], "tau": []}
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


@pytest.mark.parametrize("half", ["300,sea", "300,search,7", "3"])
def test_the_incomplete_line_of_a_killed_run_is_ignored(tmp_path, half):
    path = tmp_path / "log.csv"
    path.write_text(f"iter,phase,tau\n100,warmup,4\n200,search,3\n{half}")
    assert read_mask_log(path)["iter"] == [100, 200]
    MaskLog(path).append({"iter": 300, "phase": "search", "tau": 2.0})
    assert read_mask_log(path) == {"iter": [100, 200, 300], "phase": ["warmup", "search", "search"], "tau": [4, 3, 2]}


def test_an_incomplete_header_is_replaced(tmp_path):
    (tmp_path / "log.csv").write_text("iter,pha")
    MaskLog(tmp_path / "log.csv").append({"iter": 1, "phase": "warmup"})
    assert read_mask_log(tmp_path / "log.csv") == {"iter": [1], "phase": ["warmup"]}


def test_a_killed_truncate_leaves_the_old_file(tmp_path, monkeypatch):
    log = MaskLog(tmp_path / "log.csv")
    log.append({"iter": 1, "tau": 1.0})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        log.truncate(0)
    assert read_mask_log(log.path)["iter"] == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("iter,tau\n1,2\n2\n", "line 3: expected 2 cells, got 1"),
        ("iter,tau\n1,warm\n", "line 2: tau: expected a number, got 'warm'"),
        ("iter,tau\n,2\n", "line 2: iter is missing"),
        ("step,tau\n1,2\n", "no column 'iter'"),
    ],
)
def test_a_damaged_log_is_rejected(tmp_path, text, message):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_mask_log(tmp_path / "log.csv")


def test_a_row_needs_its_iteration(tmp_path):
    with pytest.raises(ValueError, match="iter: is missing"):
        MaskLog(tmp_path / "log.csv").append({"tau": 1.0})
