import pickle
from collections import OrderedDict

import pytest
import torch
from torch import nn

from basicsr.engine import checkpoint
from basicsr.engine.checkpoint import load_file, load_weights, newest_state, save_atomically
from basicsr.errors import CheckpointError


@pytest.fixture
def net():
    return nn.Sequential(OrderedDict(a=nn.Linear(2, 3), b=nn.Linear(3, 1)))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net_g_1.pth"


def test_what_is_saved_is_loaded(net, path):
    save_atomically({"params": net.state_dict(), "network_g": {"type": "X", "sizes": [1, 2]}}, path)
    other = nn.Sequential(OrderedDict(a=nn.Linear(2, 3), b=nn.Linear(3, 1)))
    assert load_weights(other, path)["network_g"] == {"type": "X", "sizes": [1, 2]}
    assert torch.equal(other.a.weight, net.a.weight)


def test_a_write_that_fails_leaves_the_old_file(net, path, monkeypatch):
    save_atomically({"params": net.state_dict()}, path)
    before = path.read_bytes()

    def fail(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        save_atomically({"params": {}}, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (lambda s: {"params": s}, "params"),
        (lambda s: {"params": s}, "params_ema"),  # falls back
        (lambda s: s, "params"),  # a bare state dict
        (lambda s: s, None),
        (lambda s: {"params": {f"module.{k}": v for k, v in s.items()}}, "params"),
    ],
)
def test_old_layouts_load(net, path, content, key):
    torch.save(content(net.state_dict()), path)
    other = nn.Sequential(OrderedDict(a=nn.Linear(2, 3), b=nn.Linear(3, 1)))
    load_weights(other, path, key)
    assert torch.equal(other.b.weight, net.b.weight)


def test_a_mismatch_names_everything_at_once(net, path):
    save_atomically({"params": net.state_dict()}, path)
    other = nn.Sequential(OrderedDict(a=nn.Linear(2, 4), c=nn.Linear(3, 1)))
    with pytest.raises(CheckpointError) as error:
        load_weights(other, path)
    message = str(error.value)
    assert "2 missing: c.weight, c.bias" in message
    assert "2 unexpected: b.weight, b.bias" in message
    assert "a.weight is (3, 2) in the file, (4, 2) in the network" in message


def test_not_strict_loads_what_fits(net, path, caplog):
    save_atomically({"params": net.state_dict()}, path)
    other = nn.Sequential(OrderedDict(a=nn.Linear(2, 3), b=nn.Linear(3, 2)))
    load_weights(other, path, strict=False)
    assert torch.equal(other.a.weight, net.a.weight)
    assert not torch.equal(other.b.weight[:1], net.b.weight)


class Trap:
    def __reduce__(self):
        return (open, ("trapped", "w"))


def test_code_in_a_file_is_refused_and_does_not_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with path.open("wb") as file:
        pickle.dump({"params": Trap()}, file)
    with pytest.raises(CheckpointError, match="damaged, or holds more than tensors"):
        load_file(path)
    torch.save({"params": Trap()}, path)
    with pytest.raises(CheckpointError, match="damaged, or holds more than tensors"):
        load_file(path)
    assert not (tmp_path / "trapped").exists()


def test_damaged_and_missing_files_are_named(net, path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_file(path)
    save_atomically({"params": net.state_dict()}, path)
    data = path.read_bytes()
    for damaged in (b"", b"garbage", data[: len(data) // 2], data[:-3]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=path.name):
            load_file(path)
    torch.save([1], path)
    with pytest.raises(CheckpointError, match="expected a dict, got list"):
        load_file(path)
    torch.save({"iter": 3}, path)
    with pytest.raises(CheckpointError, match="holds no weights under 'params'; its keys are iter"):
        load_weights(net, path)


def test_newest_state(tmp_path):
    assert newest_state(tmp_path / "none") is None
    for name in ("9.state", "100.state", "20.state", "x.state", "300.pth"):
        (tmp_path / name).touch()
    assert newest_state(tmp_path).name == "100.state"


def test_real_checkpoints(shared):
    from basicsr.archs import build_network

    net = build_network({"type": "CATANet-L", "upscale": 4})
    load_weights(net, shared / "checkpoints" / "CATANet_L_x4_AID.pth")
    with pytest.raises(CheckpointError, match=r"32 missing: .*; 160 unexpected: "):
        path = shared / "checkpoints" / "DPRNet_CATANetvariant_x2_iter10000.pth"
        load_weights(build_network({"type": "CATANet-L", "upscale": 2}), path)
