"""Disks that are full, read-only or damaged: one clear error, and the run goes on from the last good checkpoint."""

import errno
import hashlib
import os
import random
import struct
import subprocess
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from reliability.runs import Run, feed, options

from basicsr.archs.published import load_network
from basicsr.engine.checkpoint import load_file, newest_checkpoint, prune_checkpoints, save_atomically
from basicsr.errors import CheckpointError
from basicsr.inference.upscaler import Upscaler


def files(run):
    folder = run.experiment
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.glob("*/*") if "." in p.name}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """An undisturbed run of six iterations, checkpoints at 2, 4 and 6, and its options."""
    folder = tmp_path_factory.mktemp("storage")
    values = options(folder, train={"ema_decay": 0.9})
    run = Run(folder / "straight", values)
    run.finish()
    return run, values


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device"),
        (errno.EROFS, "Read-only file system"),
        (errno.EDQUOT, "Disk quota exceeded"),
    ],
)
def test_a_write_that_fails_is_one_error_and_the_last_good_stays(
    number, words, straight, train, tmp_path, monkeypatch, capsys
):
    _, values = straight
    run = Run(tmp_path / "run", values)
    writes, flush = [], os.fsync

    def fsync(descriptor):
        writes.append(descriptor)
        if len(writes) > 4:  # weights, folder, state, folder of iteration 2
            raise OSError(number, os.strerror(number))
        flush(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        assert train(run) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"models/net_g_4.pth: cannot be written ({words}); make room or give write access" in message
    assert set(files(run)) == {"models/net_g_2.pth", "training_states/2.state"}
    assert train(run, "--auto_resume") == 0
    assert run.result() == straight[0].result()


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own, of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs the command mount")
    if done.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_really_full(straight, train, small_disk, capsys):
    _, values = straight
    run = Run(small_disk / "run", values)
    ballast = small_disk / "ballast"
    size = sum(map(len, files(straight[0]).values()))
    disk = os.statvfs(small_disk)
    ballast.write_bytes(bytes(max(disk.f_bavail * disk.f_frsize - size // 2, 0)))  # room for about half of the run
    assert train(run) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "cannot be written (No space left on device)" in message
    good = newest_checkpoint(run.experiment / "training_states")
    assert good is not None and good.state["iter"] < 6
    assert not list(run.experiment.rglob(".*.tmp*"))
    ballast.unlink()
    assert train(run, "--auto_resume") == 0
    assert run.result() == straight[0].result()


def test_a_disk_that_becomes_read_only(straight, train, small_disk, capsys, monkeypatch):
    _, values = straight
    run = Run(small_disk / "run", {**values, "path": {"experiments_root": str(small_disk / "e")}})
    (small_disk / "e").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert train(run) == 2
    assert "Read-only file system" in capsys.readouterr().err.splitlines()[-1]


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    """One bit in the middle of a tensor, which torch.load would not notice."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    name_and_extra = sum(struct.unpack_from("<HH", data, largest.header_offset + 26))
    data[largest.header_offset + 30 + name_and_extra + largest.file_size // 2] ^= 16
    path.write_bytes(bytes(data))


def lose(path):
    path.unlink()


@pytest.mark.parametrize("name", ["models/net_g_6.pth", "training_states/6.state"])
@pytest.mark.parametrize("damage", [truncate, empty, flip, lose])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(damage, name, straight, train, tmp_path, capsys):
    if damage is lose and name.endswith(".state"):
        pytest.skip("then there is no checkpoint 6")
    done, values = straight
    run = Run(tmp_path / "run", values)
    for path, data in files(done).items():
        (run.experiment / path).parent.mkdir(parents=True, exist_ok=True)
        (run.experiment / path).write_bytes(data)
    damage(run.experiment / name)
    assert train(run, "--auto_resume") == 0
    err = capsys.readouterr().err
    warning = next(line for line in err.splitlines() if "WARNING" in line)
    assert name in warning and "trying the checkpoint before it" in warning
    assert "Resuming training from epoch: 1, iter: 4" in err
    assert run.result() == done.result()


def test_when_all_are_damaged_the_run_does_not_begin_anew(straight, train, tmp_path, capsys):
    run = Run(tmp_path / "run", straight[1])
    folder = run.experiment / "training_states"
    folder.mkdir(parents=True)
    for it in (2, 4):
        (folder / f"{it}.state").write_bytes(b"garbage")
    assert train(run, "--auto_resume") == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "4.state: is damaged" in message and "none of the older ones" in message
    assert [path.name for path in run.experiment.parent.iterdir()] == ["run"]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".state"])
def test_no_garbling_goes_unnoticed(suffix, straight, tmp_path):
    """Files with a changed byte are refused, or the byte was of no meaning and the content is the same."""
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    source = straight[0].experiment / ("training_states/4.state" if suffix == ".state" else "models/net_g_4.pth")
    path = tmp_path / f"x{suffix}"
    if suffix == ".safetensors":
        save_atomically(load_file(source), path)
    else:
        path.write_bytes(source.read_bytes())
    data, rng, found = path.read_bytes(), random.Random(1), Counter()
    expected = flat(load_file(path))
    for _ in range(150):
        garbled = bytearray(data)
        if rng.random() < 0.2:
            del garbled[rng.randrange(len(data)) :]
        else:
            where = rng.choice([0, 0, len(data) - 3000])  # torch's directory is at the end
            garbled[rng.randrange(max(where, 0), len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(garbled))
        try:
            content = load_file(path)
        except CheckpointError as error:
            assert str(path) in str(error)
            found["refused"] += 1
        else:
            assert flat(content) == expected
            found["same"] += 1
    assert found["refused"] > 75


def flat(content):
    digest = hashlib.sha256()
    feed(digest, content)
    return digest.hexdigest()


class TestPruning:
    def test_old_ones_go_but_never_the_best(self, train, tmp_path):
        images = {"type": "PairedImageDataset", "dataroot_gt": str(tmp_path / "images")}
        psnr = {"type": "calculate_psnr", "crop_border": 2, "better": "lower"}  # so that the first stays the best
        values = options(
            tmp_path,
            8,
            datasets={"val": images},
            val={"val_freq": 2, "metrics": {"psnr": psnr}, "pbar": False},
            logger={"save_checkpoint_freq": 1, "keep_checkpoints": 2},
            train={"optim_g": {"lr": 1e-2}},
        )
        run = Run(tmp_path / "run", values)
        assert train(run) == 0
        state = torch.load(run.experiment / "training_states/8.state", weights_only=True)
        (best,) = {it for found in state["best"].values() for _, it in found.values()}
        kept = {7, 8, best}
        assert {path.name for path in (run.experiment / "training_states").iterdir()} == {f"{n}.state" for n in kept}
        assert {path.name for path in (run.experiment / "models").iterdir()} == {
            *(f"net_g_{n}.pth" for n in kept),
            "net_g_latest.pth",
        }

    def test_later_ones_of_an_older_run_stay(self, tmp_path):
        for n in (1, 2, 3, 9):
            (tmp_path / f"{n}.state").touch()
            (tmp_path / f"net_g_{n}.pth").touch()
        (tmp_path / "net_g_2.safetensors").touch()
        prune_checkpoints(tmp_path, tmp_path, current=3, keep=1, best=[1])
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {name for n in (1, 3, 9) for name in (f"{n}.state", f"net_g_{n}.pth")}


class TestSafetensors:
    @pytest.mark.parametrize("written", ["safetensors", "both"])
    def test_a_run_writes_them_and_goes_on_from_them(self, written, straight, train, tmp_path):
        safetensors = pytest.importorskip("safetensors")
        done, values = straight
        run = Run(tmp_path / "run", {**values, "logger": {**values["logger"], "checkpoint_format": written}})
        assert train(run, "--force_yml", "train:total_iter=4") == 0
        assert train(run, "--auto_resume") == 0
        path = run.experiment / "models" / "net_g_6.safetensors"
        assert path.with_suffix(".pth").exists() is (written == "both")
        expected, found = load_file(done.experiment / "models" / "net_g_6.pth"), load_file(path)
        assert flat({k: expected[k] for k in ("params", "params_ema", "network_g")}) == flat(
            {k: found[k] for k in ("params", "params_ema", "network_g")}
        )
        assert found["meta"]["iter"] == 6
        with safetensors.safe_open(str(path), "pt") as file:
            assert file.metadata().keys() == {"format", "network_g", "meta", "crc32"}
            assert all(name.split(".")[0] in ("params", "params_ema") for name in file.keys())  # noqa: SIM118

    def test_they_are_read_wherever_a_pth_is(self, straight, tmp_path):
        pytest.importorskip("safetensors")
        content = load_file(straight[0].experiment / "models" / "net_g_6.pth")
        path = tmp_path / "x.safetensors"
        save_atomically({key: content[key] for key in ("params", "network_g", "meta")}, path)
        assert load_file(path).keys() == {"params", "network_g", "meta"}  # one set of weights keeps its own names
        assert flat(load_network(path).state_dict()) == flat(content["params"])
        image = (255 * torch.rand(20, 24, 3)).byte().numpy()
        assert Upscaler.from_checkpoint(path, device="cpu")(image).shape == (40, 48, 3)

    def test_a_file_of_others(self, straight, tmp_path):
        """Bare names and no header, as most tools write."""
        save_file = pytest.importorskip("safetensors.torch").save_file
        params = load_file(straight[0].experiment / "models" / "net_g_6.pth")["params"]
        save_file({name: value.contiguous().clone() for name, value in params.items()}, tmp_path / "x.safetensors")
        assert flat(load_file(tmp_path / "x.safetensors")) == flat({"params": params})


def test_leftovers_of_a_crash_are_removed(straight, train, tmp_path):
    run = Run(tmp_path / "run", straight[1])
    assert train(run, "--force_yml", "train:total_iter=2") == 0
    leftover = run.experiment / "models" / ".net_g_4.pth.123.tmp.pth"
    leftover.write_bytes(b"half")
    assert train(run, "--auto_resume") == 0
    assert not leftover.exists() and Path(leftover.parent).exists()
