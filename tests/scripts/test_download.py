import hashlib
import io
import tarfile
import zipfile

import pytest
from web_server import web_server

import download
from download import DownloadError, checksum_of, fetch, part_of, readable, unpack

CONTENT = bytes(range(256)) * 400


@pytest.fixture
def server():
    with web_server() as server:
        server.files["/a.bin"] = CONTENT
        yield server


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """Seconds that would have been waited."""
    log = []
    monkeypatch.setattr(download.time, "sleep", log.append)
    monkeypatch.setattr(download, "CHUNK_BYTES", 1000)
    return log


class TestFetch:
    def get(self, server, tmp_path, **options):
        fetch(f"{server.address}/a.bin", tmp_path / "new/a.bin", **options)
        assert (tmp_path / "new/a.bin").read_bytes() == CONTENT
        assert list((tmp_path / "new").iterdir()) == [tmp_path / "new/a.bin"]
        return [wanted for _, wanted in server.requests]

    def leave(self, tmp_path, content):
        (tmp_path / "new").mkdir()
        part_of(tmp_path / "new/a.bin").write_bytes(content)

    def test_whole(self, server, tmp_path):
        assert self.get(server, tmp_path) == [None]

    def test_a_cut_connection_is_taken_up_again(self, server, tmp_path, pauses):
        server.cut_after = [5000, 7000, 9]
        assert self.get(server, tmp_path) == [None, "bytes=5000-", "bytes=12000-", "bytes=12009-"]
        assert pauses == [0, 0, 0]

    def test_goes_on_with_what_an_earlier_run_left(self, server, tmp_path):
        self.leave(tmp_path, CONTENT[:777])
        assert self.get(server, tmp_path) == ["bytes=777-"]

    def test_all_had_come_but_the_name(self, server, tmp_path):
        self.leave(tmp_path, CONTENT)
        assert self.get(server, tmp_path) == [f"bytes={len(CONTENT)}-"]

    def test_an_overlong_rest_is_of_another_version(self, server, tmp_path):
        self.leave(tmp_path, CONTENT + b"x")
        assert self.get(server, tmp_path) == [f"bytes={len(CONTENT) + 1}-", None]

    def test_a_server_without_ranges(self, server, tmp_path):
        server.knows_ranges = False
        self.leave(tmp_path, b"x" * 777)
        self.get(server, tmp_path)

    def test_without_resuming(self, server, tmp_path):
        self.leave(tmp_path, b"x" * 777)
        assert self.get(server, tmp_path, resume=False) == [None]

    def test_a_server_in_trouble(self, server, tmp_path, pauses):
        server.statuses = [503, 500]
        self.get(server, tmp_path)
        assert pauses == [1, 3]

    def test_refusal_is_final(self, server, tmp_path):
        with pytest.raises(DownloadError, match=r"/gone.bin: the server answers 404 Not Found; look for the file in a"):
            fetch(f"{server.address}/gone.bin", tmp_path / "gone.bin")
        assert len(server.requests) == 1 and list(tmp_path.iterdir()) == []

    def test_giving_up_keeps_what_came(self, server, tmp_path, pauses):
        server.cut_after = [5000] + [0] * 10
        with pytest.raises(DownloadError, match=r"5 kB is kept, run again to go on"):
            self.get(server, tmp_path)
        assert part_of(tmp_path / "new/a.bin").read_bytes() == CONTENT[:5000]
        assert pauses == [0, 1, 3, 7, 10, 10]
        server.cut_after = []
        assert self.get(server, tmp_path)[-1] == "bytes=5000-"

    def test_no_server(self, server, tmp_path):
        with pytest.raises(DownloadError, match="Connection refused; 0 B is kept"):
            fetch("http://127.0.0.1:1/a.bin", tmp_path / "a.bin")


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_checksum(tmp_path, kind):
    (tmp_path / "a").write_bytes(CONTENT)
    assert checksum_of(tmp_path / "a", kind) == f"{kind}:{hashlib.new(kind, CONTENT).hexdigest()}"


def make_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def make_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def files_below(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("make", [make_zip, make_tar])
class TestUnpack:
    def test_files_and_folders(self, make, tmp_path):
        archive = make(tmp_path / "archive", {"top/a.txt": b"a", "top/sub/b.txt": CONTENT})
        unpack(archive, tmp_path / "out")
        assert files_below(tmp_path / "out") == {"top/a.txt": b"a", "top/sub/b.txt": CONTENT}
        (tmp_path / "out/top/a.txt").write_bytes(b"damaged")
        unpack(archive, tmp_path / "out", strip="top")
        unpack(archive, tmp_path / "out")
        assert files_below(tmp_path / "out") == {
            "top/a.txt": b"a", "top/sub/b.txt": CONTENT, "a.txt": b"a", "sub/b.txt": CONTENT,
        }  # fmt: skip

    @pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "..\\evil", "C:evil"])
    def test_members_that_would_escape(self, make, name, tmp_path):
        archive = make(tmp_path / "archive", {"good": b"a", name: b"b"})
        with pytest.raises(DownloadError, match=r"its member .*evil' would be written outside .*out; do not trust"):
            unpack(archive, tmp_path / "out")
        assert list(tmp_path.iterdir()) == [archive]

    def test_cut_off(self, make, tmp_path):
        archive = make(tmp_path / "archive", {"a": CONTENT})
        archive.write_bytes(archive.read_bytes()[:3000])
        with pytest.raises(DownloadError, match="archive: no zip or tar archive, or cut off; remove it and run again"):
            unpack(archive, tmp_path / "out")
        assert not (tmp_path / "out/a").exists()


def test_links_are_left_out(tmp_path):
    with tarfile.open(tmp_path / "archive", "w") as archive:
        for name, kind in {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc"
            archive.addfile(info)
        info = tarfile.TarInfo("link/a")
        archive.addfile(info, io.BytesIO())
    unpack(tmp_path / "archive", tmp_path / "out")
    assert files_below(tmp_path / "out") == {"link/a": b""} and not (tmp_path / "out/link").is_symlink()


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (246_914_039, "247 MB"), (3_530_603_713, "3.53 GB")]
)
def test_readable(size, text):
    assert readable(size) == text
