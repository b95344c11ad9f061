"""Files that carry code are rejected and their code does not run. The canary is a file that the code would create."""

import io
import pickle
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from reliability.mutations import bounded, peak_mb

from basicsr.archs import build_network
from basicsr.archs.published import load_network
from basicsr.config.load import load_options, resolve
from basicsr.config.registry import ARCH_REGISTRY
from basicsr.config.yaml_file import load_yaml, parse_value
from basicsr.engine.checkpoint import find_checkpoint, load_file, load_weights
from basicsr.errors import CheckpointError, OptionError
from basicsr.inference.upscaler import Upscaler
from basicsr.models import build_model

ROOT = Path(__file__).parents[2]
SPEC = {"type": "Bicubic", "upscale": 2}


class Payload:
    """An object that creates the canary when it is unpickled, through one of several functions."""

    def __init__(self, canary, function):
        self.canary, self.function = str(canary), function

    def __reduce__(self):
        if self.function == "exec":
            return exec, (f"open({self.canary!r}, 'w').close()",)
        if self.function == "open":
            return open, (self.canary, "w")
        if self.function == "os.system":
            import os

            return os.system, (f"touch {self.canary}",)
        return torch.load, (self.canary,)  # functions of torch are not trusted either


def legacy(content):
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def zipped(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.fixture
def canary(tmp_path):
    """Path of a file that must not exist at the end."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "the code in a file ran"


@pytest.mark.parametrize("function", ["exec", "open", "os.system", "torch.load"])
@pytest.mark.parametrize("write", [zipped, legacy, pickle.dumps], ids=["zip", "legacy", "plain pickle"])
@pytest.mark.parametrize("where", ["value", "key of params", "instead", "deep"])
def test_code_in_weight_and_state_files(tmp_path, canary, function, write, where):
    payload = Payload(canary, function)
    content = {
        "value": {"params": {"w": torch.zeros(1)}, "meta": payload},
        "key of params": {"params": {"w": payload}},
        "instead": payload,
        "deep": {"iter": 5, "optimizers": [{"state": [{}, (1, [payload])]}]},
    }[where]
    for name in ("a.pth", "5.state"):
        (tmp_path / name).write_bytes(write(content))
        with pytest.raises(CheckpointError, match=name) as error:
            load_file(tmp_path / name)
        assert len(str(error.value).splitlines()) == 1


def test_the_payload_runs_without_weights_only(tmp_path):
    """Otherwise the tests above would prove nothing."""
    for function in ("exec", "open", "os.system"):
        (tmp_path / "a.pth").write_bytes(zipped(Payload(tmp_path / function, function)))
        torch.load(tmp_path / "a.pth", weights_only=False)
        assert (tmp_path / function).exists()


def test_code_next_to_the_pickle(tmp_path, canary):
    """A TorchScript archive is a program; so is a pickle added to a valid zip file."""

    class Net(torch.nn.Module):
        def forward(self, x):
            return x + 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Net()).save(str(tmp_path / "script.pth"))
    with pytest.raises(CheckpointError, match=r"script\.pth"):
        load_file(tmp_path / "script.pth")
    bad = pickle.dumps(Payload(canary, "exec"))
    with zipfile.ZipFile(io.BytesIO(zipped({"params": {"w": torch.zeros(1)}}))) as good:
        for victim in good.namelist():
            with zipfile.ZipFile(tmp_path / "b.pth", "w") as archive:
                for name in good.namelist():
                    archive.writestr(name, bad if name == victim else good.read(name))
            try:
                load_file(tmp_path / "b.pth")  # other entries may hold anything: they are read as bytes
            except CheckpointError as error:
                assert "b.pth" in str(error)


def test_every_way_to_load_rejects_them(tmp_path, canary, photos):
    (tmp_path / "a.pth").write_bytes(zipped({"params": Payload(canary, "exec"), "network_g": SPEC}))
    (tmp_path / "5.state").write_bytes(zipped({"iter": 5, "optimizers": [Payload(canary, "exec")]}))
    with pytest.raises(CheckpointError):
        Upscaler.from_checkpoint(tmp_path / "a.pth", device="cpu")
    with pytest.raises(CheckpointError):
        load_weights(build_network({"type": "CATANet-S", "upscale": 2}), tmp_path / "a.pth", strict=False)
    text = (ROOT / "options/train/train_CATANet_S_x2_scratch.yml").read_text(encoding="utf-8")
    (tmp_path / "x.yml").write_text(text, encoding="utf-8")
    set_path = [
        f"path:{key}={tmp_path / name}" for key, name in [("pretrain_network_g", "a.pth"), ("resume_state", "5.state")]
    ]
    with pytest.raises(CheckpointError):
        build_model(resolve(load_options(tmp_path / "x.yml", [*set_path[:1], "num_gpu=0"], is_train=True)))
    with pytest.raises(CheckpointError):
        find_checkpoint(resolve(load_options(tmp_path / "x.yml", set_path[1:], is_train=True)))


class TestDescribedNetworks:
    """`network_g` in a weight file is untrusted, too."""

    @pytest.mark.parametrize(
        "spec",
        [
            "text", 5, [], {"upscale": 2}, {"type": 7}, {"type": ["Bicubic"]}, {"type": "os.system"}, {"type": "../x"},
            {"type": "CATANet-S", "upscale": "2"}, {"type": "CATANet-S", "upscale": 2, "nonsense": 1},
            {"type": "CATANet-S", 7: 7}, {"type": "CATANet-S", "self": 1}, {"type": "CATANet-S", "upscale": 10**9},
            {"type": "CATANet", "upscale": 2, "dim": 10**6}, {"type": "CATANet", "upscale": 2, "dim": 2**62},
            {"type": "ATD", "upscale": 2, "embed_dim": 30_000}, {"type": "ATD", "upscale": 2, "depths": [10**6]},
        ],
        ids=range(17),
    )  # fmt: skip
    def test_invalid_ones(self, tmp_path, spec):
        torch.save({"params": {"w": torch.zeros(1)}, "network_g": spec}, tmp_path / "a.pth")
        before = peak_mb()
        for load in (load_network, lambda path: Upscaler.from_checkpoint(path, device="cpu")):
            with bounded(60, "a network"), pytest.raises(CheckpointError, match=r"a\.pth: .*network_g"):
                load(tmp_path / "a.pth")
        assert peak_mb() - before < 1000

    def test_of_a_plugin_that_reads_numbers_in_its_constructor(self, tmp_path, monkeypatch):
        class Outside(torch.nn.Linear):
            def __init__(self, *, width: int = 2):
                super().__init__(width, int(torch.linspace(0, 3, width)[-1].item()))

        monkeypatch.setattr(ARCH_REGISTRY, "_items", {**ARCH_REGISTRY._items, "Outside": Outside})
        torch.save({"params": Outside().state_dict(), "network_g": {"type": "Outside"}}, tmp_path / "a.pth")
        assert load_network(tmp_path / "a.pth").out_features == 3

    def test_a_valid_one(self, tmp_path):
        net = build_network({"type": "CATANet-S", "upscale": 2})
        torch.save({"params": net.state_dict(), "network_g": {"type": "CATANet-S", "upscale": 2}}, tmp_path / "a.pth")
        assert Upscaler.from_checkpoint(tmp_path / "a.pth", device="cpu").upscale == 2


class TestYaml:
    TAGS = (
        "!!python/object/apply:os.system ['touch {0}']",
        "!!python/object/apply:builtins.open [{0}, w]",
        "!!python/object/new:subprocess.Popen [['touch', {0}]]",
        "!!python/object/new:type {{args: [x, !!python/tuple [], {{__init__: !!python/name:exec }}], state: {0}}}",
        "!!python/module:{1}",
        "!!python/name:os.system",
        "!!python/object:basicsr.config.registry.Registry {{kind: {0}}}",
        "!!python/object/apply:eval [\"open('{0}', 'w')\"]",
    )

    @pytest.mark.parametrize("tag", TAGS)
    def test_files_execute_nothing(self, tmp_path, canary, tag):
        path = tmp_path / "x.yml"
        path.write_text(f"name: {tag.format(canary, 'antigravity')}\n", encoding="utf-8")
        with pytest.raises(OptionError, match=r"x\.yml:1: the tag \S+ is not allowed"):
            load_yaml(path)

    @pytest.mark.parametrize("tag", TAGS)
    def test_overrides_execute_nothing(self, canary, tag):
        with pytest.raises(yaml.YAMLError):
            parse_value(tag.format(canary, "antigravity"))

    def test_overrides_evaluate_nothing(self, canary):
        for text in (f"__import__('os').system('touch {canary}')", f"open({str(canary)!r},'w')", "1+1", "2**9", "$(id)",
                     "`id`x", "${HOME}", "lambda x:0", "os.environ", "f'{1+1}'"):  # fmt: skip
            try:
                assert parse_value(text) in (text, text.strip("'"))
            except yaml.YAMLError:
                assert text.startswith("`")
        path = ROOT / "options/train/train_CATANet_S_x2_scratch.yml"
        evil = f"__import__('os').system('touch {canary}')"
        with pytest.raises(OptionError, match=r"train\.total_iter: expected a whole number"):
            load_options(path, [f"train:total_iter={evil}"], is_train=True)
        assert load_options(path, [f"path:log_note={evil}"], is_train=True).path.extra["log_note"] == evil
        for key in ("a;b", evil, "train['x']", "[0]", "__class__:__init__"):
            try:
                load_options(path, [f"{key}=1"], is_train=True)
            except OptionError as error:
                assert len(str(error).splitlines()) == 1

    def test_overrides_are_bounded(self):
        path = ROOT / "options/train/train_CATANet_S_x2_scratch.yml"
        for override in ("x=" + "[" * 3000 + "]" * 3000, ":".join("a" * 2000) + "=1", "x=" + "y" * 10**6, "k" * 10**5):
            with bounded(10, override[:20]), pytest.raises(OptionError, match="--force_yml") as error:
                load_options(path, [override], is_train=True)
            assert len(str(error.value)) < 1000


class TestDamagedCheckpoints:
    """A weight file with wrong bytes is loaded, or rejected with its name."""

    @pytest.mark.parametrize("write", [zipped, legacy], ids=["zip", "legacy"])
    def test_flips_and_cuts(self, tmp_path, write):
        generator = torch.Generator().manual_seed(0)
        weights = {"body.weight": torch.rand(8, 3, 3, 3, generator=generator), "body.bias": torch.rand(8)}
        data = write({"params": weights, "meta": {"iter": 5, "name": "x", "best": {"psnr": (30.5, 4)}}})
        path, rejected = tmp_path / "a.pth", 0
        for number in range(300):
            bad = bytearray(data)
            where = torch.randint(len(data), (3,), generator=generator).tolist()
            if number % 3 == 0:
                bad = bad[: where[0]]
            elif number % 3 == 1:
                bad[where[0]] ^= 1 << (number // 3) % 8
            else:
                bad[min(where) : min(where) + 40] = bytes(40)
            path.write_bytes(bytes(bad))
            try:
                with bounded(20, f"case {number}"):
                    load_file(path)
            except CheckpointError as error:
                assert str(path) in str(error)
                assert len(str(error).splitlines()) == 1
                rejected += 1
        assert rejected >= 100

    def test_a_small_file_does_not_fill_the_memory(self, tmp_path):
        """A compressed entry can hold a thousand times its size; torch.save never compresses."""
        valid = io.BytesIO(zipped({"params": {"w": torch.zeros(1 << 20)}}))
        with zipfile.ZipFile(valid) as good, zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
            for name in good.namelist():
                if name.endswith("data/0"):
                    with archive.open(name, "w", force_zip64=True) as entry:
                        for _ in range(512):
                            entry.write(bytes(1 << 20))
                else:
                    archive.writestr(name, good.read(name))
        before = peak_mb()
        with pytest.raises(CheckpointError, match=r"a\.pth"):
            load_file(tmp_path / "a.pth")
        assert peak_mb() - before < 200

    def test_a_tensor_larger_than_its_data(self, tmp_path):
        """A stride of 0 makes one number a tensor of a billion."""
        torch.save({"params": {"w": torch.zeros(1).expand(1 << 40)}, "network_g": SPEC}, tmp_path / "a.pth")
        with bounded(20, "a tensor"), pytest.raises(CheckpointError, match="unexpected: w"):
            Upscaler.from_checkpoint(tmp_path / "a.pth", device="cpu")

    @pytest.mark.parametrize("data", [b"", b"PK\x05\x06" + bytes(18), b"\x80\x02", b"\x80\x04.", b"{}", b"\0" * 5000,
                                      b"\x80\x02" + b"(" * 10000, struct.pack("<Q", 2**62) + b"{}"])  # fmt: skip
    def test_other_files(self, tmp_path, data):
        (tmp_path / "a.pth").write_bytes(data)
        with bounded(20, "a file"), pytest.raises(CheckpointError, match=r"a\.pth") as error:
            load_file(tmp_path / "a.pth")
        assert len(str(error.value).splitlines()) == 1
