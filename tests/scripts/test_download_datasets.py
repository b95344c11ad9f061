import hashlib
import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from web_server import web_server

import download
from basicsr.images.files import list_images

SCRIPT = "download_datasets.py"
OPTIONS = Path(__file__).parents[2] / "options"
WEIGHTS = b"weights" * 1000


@pytest.fixture
def server(script, photos, monkeypatch):
    """A server with a zip, a tar and weights, and the script's table pointing there."""
    names = list_images(photos)
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        for name in names:
            archive.write(photos / name, f"Photos_LR/X2/{name}")
    with tarfile.open(fileobj=tarred, mode="w") as archive:
        for name in names:
            archive.add(photos / name, f"bench/Mine/HR/{name}")
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    with web_server() as server:
        server.files = {"/x2.zip": zipped.getvalue(), "/bench.tar": tarred.getvalue(), "/w2.pth": WEIGHTS}
        md5 = hashlib.md5(tarred.getvalue()).hexdigest()
        sha256 = hashlib.sha256(zipped.getvalue()).hexdigest()
        about = {"licence": "free", "what": "test"}
        entries = (
            script.Entry(
                name="Photos_X2", address=f"{server.address}/x2.zip", holds={"Photos/Photos_LR/X2": 5},
                size=len(zipped.getvalue()), checksum=f"sha256:{sha256}", unpack_to="Photos", **about,
            ),
            script.Entry(
                name="bench", address=f"{server.address}/bench.tar", holds={"Mine/HR": 5}, checksum=f"md5:{md5}",
                unpack_to="", strip="bench", **about,
            ),
            script.Entry(
                name="weights", address=f"{server.address}/w2.pth", holds={"x2.pth": None}, is_weights=True, **about
            ),
            script.Entry(
                name="paper", address=f"{server.address}/view", holds={"Paper/HR": 3, "Paper/LR": 3}, by_hand=True,
                **about,
            ),
        )  # fmt: skip
        monkeypatch.setattr(script, "ENTRIES", entries)
        yield server


@pytest.fixture
def run(script, server, tmp_path, capsys):
    def run(*arguments):
        code = script.main([*arguments, "--root", str(tmp_path / "data"), "--weights", str(tmp_path / "weights")])
        return code, capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def fails(refused, server, tmp_path):
    return lambda *names: refused(*names, "--root", tmp_path / "data", "--weights", tmp_path / "weights")


def test_everything_comes_to_its_place(run, server, photos, tmp_path):
    code, lines = run("Photos_X2", "bench", "weights")
    assert code == 0
    assert lines == [
        "Photos_X2: complete, checksum as published",
        "bench: complete, checksum as published",
        "weights: complete; no checksum is published",
    ]
    for folder in ("Photos/Photos_LR/X2", "Mine/HR"):
        for name in list_images(photos):
            assert (tmp_path / "data" / folder / name).read_bytes() == (photos / name).read_bytes()
    assert (tmp_path / "weights/x2.pth").read_bytes() == WEIGHTS
    assert sorted(path.name for path in (tmp_path / "data/.downloads").iterdir()) == [
        "Photos_X2.checksum", "bench.checksum", "weights.checksum",
    ]  # fmt: skip
    requests = len(server.requests)
    assert run("Photos_X2", "bench", "weights") == (0, lines)
    assert len(server.requests) == requests


def test_keep(run, tmp_path):
    run("bench", "--keep")
    assert (tmp_path / "data/.downloads/bench.tar").is_file()


def test_a_stopped_download_goes_on(run, fails, server, tmp_path):
    server.cut_after = [4000] + [0] * 5
    assert fails("Photos_X2").endswith("/x2.zip: the connection was cut; 4 kB is kept, run again to go on")
    assert run("Photos_X2", "--check")[1][0].startswith("Photos_X2  partly downloaded, 4 kB of ")
    assert run("Photos_X2")[0] == 0
    assert server.requests[-1] == ("/x2.zip", "bytes=4000-")


def test_an_archive_that_came_another_way(run, server, tmp_path):
    (tmp_path / "data/.downloads").mkdir(parents=True)
    (tmp_path / "data/.downloads/bench.tar").write_bytes(server.files["/bench.tar"])
    assert run("bench") == (0, ["bench: complete, checksum as published"]) and server.requests == []


class TestWrongFiles:
    def test_checksum(self, fails, server, tmp_path):
        server.files["/bench.tar"] = server.files["/bench.tar"][:-1] + b"x"
        assert fails("bench").startswith("bench: the file is damaged or has changed (expected md5:")
        assert list((tmp_path / "data").rglob("*")) == [tmp_path / "data/.downloads"]

    def test_size(self, fails, server, tmp_path):
        server.files["/x2.zip"] += b"x"
        assert f"bytes, got {len(server.files['/x2.zip'])}); it was removed, run again" in fails("Photos_X2")

    def test_a_damaged_part_heals_when_run_again(self, run, fails, tmp_path):
        (tmp_path / "data/.downloads").mkdir(parents=True)
        (tmp_path / "data/.downloads/x2.zip.part").write_bytes(b"x" * 100)
        assert fails("Photos_X2").endswith("it was removed, run again")
        assert run("Photos_X2")[0] == 0

    def test_a_member_that_would_escape(self, script, fails, server, monkeypatch, tmp_path):
        evil = io.BytesIO()
        with zipfile.ZipFile(evil, "w") as archive:
            archive.writestr("good.png", b"")
            archive.writestr("../../evil", b"")
        server.files["/evil.zip"] = evil.getvalue()
        entry = script.Entry(
            name="evil", what="", licence="", address=f"{server.address}/evil.zip", holds={"Evil": 1}, unpack_to="Evil"
        )
        monkeypatch.setattr(script, "ENTRIES", (entry,))
        assert "its member '../../evil' would be written outside" in fails("evil")
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["evil.zip"]

    def test_something_else_is_in_the_archive(self, script, fails, monkeypatch):
        entry = script.ENTRIES[1]
        changed = script.Entry(**{**vars(entry), "holds": {"Mine/HR": 6}})
        monkeypatch.setattr(script, "ENTRIES", (changed,))
        assert "HR holds 5 of 6 images, though" in fails("bench")


class TestCheck:
    def test_nothing_is_there(self, run, tmp_path):
        code, lines = run("--check")
        assert code == 1
        assert lines[0] == f"Photos_X2  missing, no {tmp_path / 'data/Photos/Photos_LR/X2'}"
        assert lines[2] == f"weights    missing, no {tmp_path / 'weights/x2.pth'}"

    def test_complete_missing_and_damaged_images(self, run, tmp_path):
        run("bench")
        assert run("bench", "--check") == (0, ["bench  complete, checksum as published"])
        image = tmp_path / "data/Mine/HR/rocket.png"
        data = image.read_bytes()
        image.write_bytes(data[:-20])
        code, (line,) = run("bench", "--check")
        assert code == 1 and line.startswith(f"bench  damaged, {image}: the file is cut off")
        image.unlink()
        assert run("bench", "--check")[1] == [f"bench  incomplete, {image.parent} holds 4 of 5 images"]
        run("bench")
        assert image.read_bytes() == data

    def test_weights(self, run, tmp_path):
        run("weights")
        (tmp_path / "weights/x2.pth").write_bytes(WEIGHTS[:-1])
        code, (line,) = run("weights", "--check")
        assert code == 1 and line.endswith("x2.pth is not the file that was downloaded")
        assert run("weights") == (0, ["weights: complete; no checksum is published"])

    def test_what_came_another_way(self, run, photos, tmp_path):
        for part in ("HR", "LR"):
            shutil.copytree(photos, tmp_path / "data/Paper" / part)
        line = "paper  complete; it came another way, so no checksum was compared"
        assert run("paper", "--check") == (0, [line])
        assert run("paper")[0] == 0


class TestMistakes:
    def test_by_hand(self, fails, server, tmp_path):
        folders = f"{tmp_path / 'data/Paper/HR'} (3 images), {tmp_path / 'data/Paper/LR'} (3 images)"
        assert fails("paper") == f"paper: get it with a browser from {server.address}/view and fill {folders}"

    def test_names(self, fails):
        assert fails("Photo_X2") == "Photo_X2: no such data set or weights; did you mean Photos_X2?"
        assert fails("zzz").endswith("known are Photos_X2, bench, weights, paper")
        assert fails() == "name what to fetch, or ask for --list or --check"

    def test_the_server_has_no_such_file(self, fails, server):
        del server.files["/bench.tar"]
        assert (
            fails("bench")
            == f"{server.address}/bench.tar: the server answers 404 Not Found; look for the file in a browser"
        )

    def test_a_full_disk(self, script, fails, server, monkeypatch):
        monkeypatch.setattr(script.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 0, 10))
        assert "has 10 B; make room" in fails("Photos_X2") and server.requests == []


class TestTable:
    def test_list(self, script, capsys):
        assert script.main(["--list"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == len(script.ENTRIES) + 1
        assert lines[0].split() == ["name", "what", "size", "checksum", "licence", "address"]
        assert script.main(["--list", "DIV2K_train_HR"]) == 0
        line = capsys.readouterr().out.splitlines()[1]
        assert "3.53 GB  sha256  " in line and line.endswith(
            "https://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_train_HR.zip"
        )

    def test_entries_are_sound(self, script):
        assert len({entry.name for entry in script.ENTRIES}) == len(script.ENTRIES)
        digits = {"sha256": 64, "md5": 32}
        for entry in script.ENTRIES:
            assert entry.address.startswith("https://") and entry.licence and entry.what and entry.holds
            if entry.checksum:
                kind, value = entry.checksum.split(":")
                assert len(value) == digits[kind] and int(value, 16)
            if not entry.by_hand:  # several folders come out of an archive, but a plain file is one
                assert entry.unpack_to is not None or len(entry.holds) == 1

    def test_the_yaml_files_find_what_it_fetches(self, script):
        there = {
            f"{'pretrained_models' if entry.is_weights else 'datasets'}/{place}"
            for entry in script.ENTRIES
            for place in entry.holds
        }
        wanted = set()
        for path in OPTIONS.rglob("*CATANet_x*.yml"):
            options = yaml.safe_load(path.read_text())
            wanted |= {section["dataroot_gt"] for section in options["datasets"].values()}
            weights = options["path"].get("pretrain_network_g")
            wanted |= {weights} if weights and not weights.startswith("experiments/") else set()
        assert len(wanted) == 9 and wanted <= there
