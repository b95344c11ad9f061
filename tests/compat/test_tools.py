"""Files, seeds, logs and options that plug-ins written for BasicSR 1.4 import."""

import io
import logging
import random
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from basicsr.compat import misc
from basicsr.compat.file_client import FileClient
from basicsr.compat.options import PlainOptions, dict2str, ordered_yaml, yaml_load
from basicsr.config.load import load_options, resolve
from basicsr.utils.logger import AvgTimer, MessageLogger, get_root_logger

OPTIONS = """
name: run
scale: 2
own: {key: [1]}
network_g: {type: CATANet-S, upscale: 2}
datasets: {train: {name: T, type: PairedImageDataset, dataroot_gt: x}}
train: {total_iter: 3, optim_g: {type: Adam, lr: 0.1}, pixel_opt: {type: L1Loss}}
"""


def test_file_client_reads_lmdb(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    for name in ("a.lmdb", "b.lmdb"):
        with lmdb.open(str(tmp_path / name)) as database, database.begin(write=True) as transaction:
            transaction.put(b"key", name.encode())
    paths = [str(tmp_path / name) for name in ("a.lmdb", "b.lmdb")]
    client = FileClient("lmdb", db_paths=paths, client_keys=["lq", "gt"])
    assert (client.get("key", "lq"), client.get("key", "gt")) == (b"a.lmdb", b"b.lmdb")
    with pytest.raises(ValueError, match="client_key other is not in lmdb clients"):
        client.get("key", "other")
    with pytest.raises(ValueError, match="Backend memcached is not supported"):
        FileClient("memcached")


def test_scandir(tmp_path):
    for name in ("b_arch.py", "a_arch.py", ".hidden_arch.py", "c.txt", "sub/d_arch.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(misc.scandir(tmp_path, suffix="_arch.py")) == ["a_arch.py", "b_arch.py"]
    assert list(misc.scandir(tmp_path, (".txt", "d_arch.py"), recursive=True)) == ["c.txt", "sub/d_arch.py"]
    assert list(misc.scandir(str(tmp_path), ".txt", full_path=True)) == [str(tmp_path / "c.txt")]
    with pytest.raises(TypeError, match="suffix"):
        misc.scandir(tmp_path, 3)


def test_folders_are_kept(tmp_path):
    folder = tmp_path / "run"
    misc.mkdir_and_rename(folder)
    (folder / "weights").touch()
    misc.mkdir_and_rename(folder)
    (kept,) = tmp_path.glob("run_archived_*")
    assert (kept / "weights").exists()
    assert list(folder.iterdir()) == []
    path = {"experiments_root": str(tmp_path / "e"), "models": str(tmp_path / "e" / "models")}
    misc.make_exp_dirs({"is_train": True, "path": path})
    assert (tmp_path / "e" / "models").is_dir()


def test_resume_points_to_the_weights():
    path = {"resume_state": "x.state", "models": "m", "ignore_resume_networks": ["network_d"]}
    opt = {"network_g": {}, "network_d": {}, "path": path}
    misc.check_resume(opt, 50)
    assert opt["path"]["pretrain_network_g"].replace("\\", "/") == "m/net_g_50.pth"
    assert "pretrain_network_d" not in opt["path"]


def test_seeds():
    draws = []
    for _ in range(2):
        misc.set_random_seed(7)
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert draws[0] == draws[1]
    assert misc.sizeof_fmt(1536) == "1.5 KB"


def test_messages(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(get_root_logger(), "handlers", [logging.StreamHandler(stream)])
    monkeypatch.setattr(get_root_logger(), "isEnabledFor", lambda level: True)
    tags = {}
    opt = {"name": "train_x", "train": {"total_iter": 100}, "logger": {"print_freq": 1, "use_tb_logger": True}}
    message = MessageLogger(opt, 1, tb_logger=SimpleNamespace(add_scalar=lambda tag, value, it: tags.update({tag: it})))
    message({"epoch": 2, "iter": 30, "lrs": [1e-4], "time": 0.5, "data_time": 0.1, "l_pix": 0.25})
    assert stream.getvalue().startswith("[train..][epoch:  2, iter:      30, lr:(1.000e-04,)] [eta: ")
    assert stream.getvalue().endswith("time (data): 0.500 (0.100)] l_pix: 2.5000e-01\n")
    assert tags == {"losses/l_pix": 30}


def test_average_time(monkeypatch):
    ticks = iter([0.0, 1.0, 4.0, 9.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    timer = AvgTimer(window=2)
    for _ in range(3):
        timer.record()
    assert (timer.get_current_time(), timer.get_avg_time()) == (5, 4)


def test_a_log_file(tmp_path, monkeypatch):
    monkeypatch.setattr(get_root_logger(), "handlers", [])
    get_root_logger(log_level=logging.INFO, log_file=str(tmp_path / "x.log")).warning("hello")
    get_root_logger().handlers[0].close()
    assert "WARNING: hello" in (tmp_path / "x.log").read_text()


def test_options_as_text():
    assert dict2str({"a": 1, "b": {"c": None}}) == "\n  a: 1\n  b:[\n    c: None\n  ]\n"


def test_yaml_is_read_safely(tmp_path):
    (tmp_path / "x.yml").write_text("a: 2e-4\nb: [1, 2]\n")
    assert yaml_load(str(tmp_path / "x.yml")) == {"a": 2e-4, "b": [1, 2]} == yaml_load("a: 2e-4\nb: [1, 2]")
    with pytest.raises(Exception, match="could not determine a constructor"):
        yaml_load("!!python/object/apply:os.system [echo]")
    loader, dumper = ordered_yaml()
    assert list(yaml.load(yaml.dump({"b": 1, "a": 2}, Dumper=dumper, sort_keys=False), Loader=loader)) == ["b", "a"]


def test_a_plug_in_may_write_to_its_options(tmp_path):
    (tmp_path / "x.yml").write_text(OPTIONS)
    typed = resolve(load_options(tmp_path / "x.yml", is_train=True))
    opt = PlainOptions(typed)
    assert isinstance(opt, dict)
    assert opt["train"]["optim_g"].pop("type") == "Adam"
    assert opt["train"]["optim_g"] == {"lr": 0.1}
    assert typed.train.optim_g["type"] == opt.train.optim_g["type"] == "Adam"
    assert opt["own"] == {"key": [1]}
    assert opt["val"]["suffix"] is None  # declared, not set
    assert opt["val"].get("metrics") is None
    assert "tile" not in opt
    with pytest.raises(KeyError):
        opt["tile"]
    assert opt["path"]["experiments_root"] == "experiments/run"
    assert opt["datasets"]["train"]["phase"] == "train"
    assert (opt["is_train"], opt["dist"], opt["rank"]) == (True, False, 0)
