"""Exit codes, seeds, devices and folders of a run."""

import logging
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from basicsr.config.load import resolve
from basicsr.config.schema import Options, PathOptions
from basicsr.config.section import Spec
from basicsr.engine import device
from basicsr.engine.device import matmul_precision, pick_device, set_matmul_precision, to_float64
from basicsr.engine.random_state import seed_everything
from basicsr.engine.run import join_processes, make_folders, run_command
from basicsr.errors import CheckpointError, OptionError, UnknownNameError

LOGGER = logging.getLogger("basicsr")


def failing(error):
    def body():
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OptionError("x.yml:3: scale: must be 2"), 2, "x.yml:3: scale: must be 2"),
        (UnknownNameError("no loss is called 'L3'"), 2, "no loss is called 'L3'"),
        (CheckpointError("x.pth: is damaged"), 2, "x.pth: is damaged"),
        (FileNotFoundError("x: no such folder"), 2, "x: no such folder"),
        (
            OptionError("f: 2 of 5 images:\n  a.png: cut\n  b.png: small"),
            2,
            "f: 2 of 5 images: a.png: cut; b.png: small",
        ),
        (FloatingPointError("iteration 7: nan"), 1, "iteration 7: nan"),
    ],
)
def test_an_error_of_the_user_is_one_line_and_an_exit_code(error, code, said, capsys):
    assert run_command("prog", failing(error)) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.split(" CRITICAL: ")[1] == f"prog: {said}"


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command("prog", lambda: 1 / 0)


def test_success_is_silent(capsys):
    assert run_command("prog", lambda: None) == 0
    assert capsys.readouterr() == ("", "")


def test_only_one_process_logs_the_error(monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert run_command("prog", failing(OptionError("x"))) == 2
    assert capsys.readouterr().err == ""


def test_seeds_repeat():
    def numbers(seed):
        seed_everything(seed)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert numbers(3) == numbers(3)
    assert all(a != b for a, b in zip(numbers(3), numbers(4), strict=True))


def test_devices_without_a_gpu(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert {pick_device(number).type for number in (0, "auto")} == {"cpu"}
    assert not caplog.messages
    assert pick_device(2).type == "cpu"
    assert caplog.messages == ["num_gpu is 2, but there is no GPU here: using the CPU"]


def test_devices_with_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert pick_device("auto") == torch.device("cuda", 3)
    assert pick_device(0) == torch.device("cpu")


@pytest.mark.parametrize(("where", "result"), [("cpu", "cpu"), ("cuda", "cuda"), ("mps", "cpu")])
def test_float64_where_a_device_has_none(where, result):
    with FakeTensorMode():  # tensors without data, on devices that need not be there
        values = to_float64(torch.empty(2, 3, device=where))
    assert (values.device.type, values.dtype) == (result, torch.float64)


@pytest.fixture
def options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # tb_logger/ is looked for here

    def options(is_train=True, rank=0):
        path = PathOptions(experiments_root=str(tmp_path / "e"), results_root=str(tmp_path / "r"))
        run = Options(name="run", scale=2, datasets={}, network_g=Spec({"type": "X"}), path=path, is_train=is_train)
        return resolve(run, rank=rank)

    return options


def test_folders(options, tmp_path):
    make_folders(options(), keep_existing=False)
    make_folders(options(is_train=False), keep_existing=False)
    folders = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_dir()}
    train = {"e/run", "e/run/models", "e/run/training_states", "e/run/visualization"}
    assert folders == {"e", "r", *train, "r/run", "r/run/visualization"}


def test_other_ranks_make_no_folders(options, tmp_path):
    make_folders(options(rank=1), keep_existing=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep_existing", [True, False])
def test_an_old_folder_is_used_or_renamed(keep_existing, options, tmp_path):
    for folder in (tmp_path / "e/run", tmp_path / "tb_logger/run"):
        folder.mkdir(parents=True)
        (folder / "old").touch()
    make_folders(options(), keep_existing)
    assert (tmp_path / "e/run/old").exists() == (tmp_path / "tb_logger/run/old").exists() == keep_existing
    assert len([*tmp_path.glob("*/run_archived_*/old")]) == (0 if keep_existing else 2)


def test_a_test_run_leaves_the_trackers_of_training(options, tmp_path):
    (tmp_path / "tb_logger/run").mkdir(parents=True)
    make_folders(options(is_train=False), keep_existing=False)
    assert (tmp_path / "tb_logger/run").exists()


def test_freed_memory_is_kept_where_the_c_library_can(monkeypatch):
    calls = []
    library = SimpleNamespace(mallopt=lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(device.ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(device.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.delenv("BASICSR_MALLOC")
    device.keep_freed_memory()
    assert calls == [(-4, 0), (-1, 2**31 - 1)]
    for setting, library_name in (("0", "glibc"), ("1", "")):
        monkeypatch.setenv("BASICSR_MALLOC", setting)
        monkeypatch.setattr(device.platform, "libc_ver", lambda name=library_name: (name, ""))
        device.keep_freed_memory()
    assert len(calls) == 2


class TestMatmulPrecision:
    @pytest.fixture(autouse=True)
    def as_pytorch_starts(self):
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = True
        yield
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]

    @pytest.mark.parametrize(("precision", "tf32"), [("highest", False), ("high", True), ("medium", True)])
    def test_products_and_convolutions_follow_it(self, precision, tf32, recwarn):
        set_matmul_precision(precision)
        assert torch.get_float32_matmul_precision() == precision
        assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is tf32
        assert list(recwarn) == []

    def test_a_block_leaves_it_as_it_was(self):
        with pytest.raises(ZeroDivisionError), matmul_precision("medium"):
            assert torch.get_float32_matmul_precision() == "medium"
            raise ZeroDivisionError
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("highest", True)

    @pytest.mark.parametrize(("options", "precision"), [({}, "highest"), ({"matmul_precision": "high"}, "high")])
    def test_a_run_sets_it(self, options, precision):
        spec = Spec({"type": "CATANet-S"})
        join_processes(Options(name="x", scale=2, datasets={}, network_g=spec, num_gpu=0, **options), "none")
        assert torch.get_float32_matmul_precision() == precision

    def test_highest_changes_nothing_on_the_cpu(self):
        x, kernel = torch.rand(1, 8, 20, 20), torch.rand(8, 8, 3, 3)
        before = torch.nn.functional.conv2d(x, kernel), x @ x
        set_matmul_precision("highest")
        after = torch.nn.functional.conv2d(x, kernel), x @ x
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
