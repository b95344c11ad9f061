import collections
import io
import pickle
import re
import shutil
import zipfile
from collections import OrderedDict

import pytest
import torch
from torch import nn

from basicsr.engine import checkpoint
from basicsr.engine.checkpoint import load_file, load_weights, newest_checkpoint, newest_state, save_atomically
from basicsr.engine.weight_digest import weights_digest
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


class TestFilesOfOneSave:
    """State and weights of different saves are not mixed."""

    @pytest.fixture
    def run(self, net, tmp_path):
        """Write the checkpoints of iterations 7 and 14, each with two networks, and return the folder."""
        for it in (7, 14):
            digests = {}
            for label in ("net_g", "net_d"):
                nn.init.normal_(net.a.weight)
                content = {"params": net.state_dict(), "meta": {"iter": it}}
                save_atomically(content, tmp_path / f"models/{label}_{it}.pth")
                digests[label] = weights_digest(content)
            state = {"iter": it, "optimizers": [], "weight_digests": digests}
            save_atomically(state, tmp_path / f"training_states/{it}.state")
        return tmp_path

    def found(self, run):
        return newest_checkpoint(run / "training_states").state["iter"]

    def test_the_newest_is_taken(self, run):
        assert self.found(run) == 14

    @pytest.mark.parametrize("label", ["net_g", "net_d"])
    @pytest.mark.parametrize("digests", [True, False])
    def test_weights_of_another_iteration(self, run, caplog, label, digests):
        if not digests:  # as older versions wrote states
            for path in run.glob("training_states/*.state"):
                save_atomically({"iter": int(path.stem), "optimizers": []}, path)
        shutil.copy(run / f"models/{label}_7.pth", run / f"models/{label}_14.pth")
        assert self.found(run) == 7
        (warning,) = caplog.messages
        assert f"{label}_14.pth: holds the weights of iteration 7, and its state is of 14" in warning
        assert "trying the checkpoint before it" in warning

    @pytest.mark.parametrize("label", ["net_g", "net_d"])
    def test_weights_of_another_run_at_the_same_iteration(self, run, net, caplog, label):
        nn.init.zeros_(net.a.weight)
        save_atomically({"params": net.state_dict(), "meta": {"iter": 14}}, run / f"models/{label}_14.pth")
        assert self.found(run) == 7
        assert f"{label}_14.pth: holds other weights than were saved with its state" in caplog.text

    def test_a_renamed_state(self, run, caplog):
        shutil.copy(run / "training_states/7.state", run / "training_states/14.state")
        assert self.found(run) == 7
        assert "14.state: holds the state of iteration 7, not of 14" in caplog.text

    def test_a_missing_network(self, run, caplog):
        (run / "models/net_d_14.pth").unlink()
        assert self.found(run) == 7
        assert "net_d_14.pth: no such file" in caplog.text

    def test_networks_that_are_not_resumed_do_not_count(self, run):
        (run / "models/net_d_14.pth").unlink()
        assert newest_checkpoint(run / "training_states", ["network_d"]).state["iter"] == 14

    def test_none_is_left(self, run):
        for it, other in ((7, 14), (14, 7)):
            shutil.copy(run / f"models/net_d_{it}.pth", run / f"models/net_g_{other}.pth")
        with pytest.raises(
            CheckpointError, match=r"net_g_14\.pth: .* none of the older ones .*Remove .*training_states"
        ):
            newest_checkpoint(run / "training_states")

    def test_a_file_without_iteration_and_digest_resumes(self, run, net):
        save_atomically({"iter": 14, "optimizers": []}, run / "training_states/14.state")
        for label in ("net_g", "net_d"):
            save_atomically({"params": net.state_dict()}, run / f"models/{label}_14.pth")
        assert self.found(run) == 14

    def test_safetensors_have_the_digest_of_the_pth(self, run):
        pytest.importorskip("safetensors")
        content = load_file(run / "models/net_g_14.pth")
        (run / "models/net_g_14.pth").unlink()
        save_atomically(content, run / "models/net_g_14.safetensors")
        assert self.found(run) == 14


def zip_of(name):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), "x")  # of 1980: the bytes name tests
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "it is empty"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image"),
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (b"GIF89a", "a GIF image"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "a WebP image"),
        (b"\0\0\0\x18ftypheic", "a HEIC image"),
        (b"\n<!DOCTYPE html><title>Sign in</title>", "an HTML page"),
        (b"\xef\xbb\xbf<html>", "an HTML page"),
        (b"<?xml version='1.0'?><Error/>", "an XML page"),
        (b'{"message": "Not Found"}', "a JSON file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        ("Grüße ".encode() * 300, "a text file"),
        (b"\0" * 5000, "filled with zeros"),
        (b"\x1f\x8b\x08", "gzip"),
        (zip_of("photo.png"), "a zip archive without weights"),
        (zip_of("x/constants.pkl"), "a TorchScript program"),
        (zip_of("x/data.pkl")[:-30], "cut off"),
        (b"\x80\x02garbage", "is damaged"),
        (bytes(range(1, 256)) * 9, "is damaged"),
    ],
)
def test_a_file_that_holds_no_weights_is_named_for_what_it_is(path, data, kind):
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=re.escape(kind)) as error:
        load_file(path)
    message = str(error.value)
    assert "weights_only" not in message and "\n" not in message and len(message) - len(str(path)) < 200


def test_no_message_repeats_the_advice_of_the_library(path):
    for content in ({"params": collections.deque([1])}, nn.Linear(1, 1)):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match="more than tensors and plain data") as error:
            load_file(path)
        assert "weights_only" not in str(error.value) and len(str(error.value)) - len(str(path)) < 200


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_weights_of_a_compiled_network_load(net, path, prefix):
    torch.save({"params": {f"{prefix}{k}": v for k, v in net.state_dict().items()}}, path)
    other = nn.Sequential(OrderedDict(a=nn.Linear(2, 3), b=nn.Linear(3, 1)))
    load_weights(other, path)
    assert torch.equal(other.b.weight, net.b.weight)


def test_weights_of_a_network_with_a_compiled_part_load(net, path):
    net.b = torch.compile(net.b)
    assert "b._orig_mod.weight" in net.state_dict()
    torch.save(net.state_dict(), path)
    other = nn.Sequential(OrderedDict(a=nn.Linear(2, 3), b=nn.Linear(3, 1)))
    load_weights(other, path)
    assert torch.equal(other.b.weight, net.b._orig_mod.weight)
