"""Files written under a temporary name and renamed: whole or not there at all."""

import os

import pytest

from basicsr.engine.atomic import atomic_path, check_file_target, check_folder, remove_leftovers, write_atomically
from basicsr.errors import OptionError


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_appears_whole_or_not_at_all(tmp_path, durable):
    path = tmp_path / "deep/a.png"
    with pytest.raises(KeyboardInterrupt), atomic_path(path, durable=durable) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert os.listdir(path.parent) == []
    with atomic_path(path, durable=durable) as temporary:
        assert temporary.suffix == ".png" and not path.exists()
        temporary.write_bytes(b"whole")
    assert os.listdir(path.parent) == ["a.png"]


def test_the_old_content_stays_until_the_new_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, b"old")
    with pytest.raises(OSError, match="No space"), atomic_path(path) as temporary:
        temporary.write_bytes(b"ne")
        raise OSError("No space left on device")
    assert path.read_text() == "old"
    write_atomically(path, "n\u00e9w\n")
    assert path.read_bytes() == "n\u00e9w\n".encode()
    assert os.listdir(tmp_path) == ["a.txt"]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    """Processes in containers that share a folder may even have the same number."""
    path = tmp_path / "a.txt"
    with atomic_path(path) as first, atomic_path(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # which was renamed last
    assert os.listdir(tmp_path) == ["a.txt"]


def test_leftovers_of_a_crash_are_removed(tmp_path):
    for name in (".net_g_4.pth.0123abcd.tmp.pth", ".4.state.0123abcd.tmp.state", ".old.pth.77.tmp", "4.state", ".x"):
        (tmp_path / name).write_bytes(b"")
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".x", "4.state"]


class TestTargetsAreCheckedBeforeWork:
    def test_a_folder_may_be_new(self, tmp_path):
        check_folder(tmp_path / "a/b", "-o")
        check_file_target(tmp_path / "a/b.json", "-o")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("path", ["file", "file/below"])
    def test_a_file_is_no_folder(self, tmp_path, path):
        (tmp_path / "file").touch()
        with pytest.raises(OptionError, match=rf"-o .*{path}: .*file is a file; name a folder"):
            check_folder(tmp_path / path, "-o")

    def test_a_folder_is_no_file(self, tmp_path):
        with pytest.raises(OptionError, match="is a folder; name a file"):
            check_file_target(tmp_path, "-o")

    def test_no_right_to_write(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
        with pytest.raises(OptionError, match=r"cannot be written \(Permission denied\); give write access"):
            check_folder(tmp_path, "-o")
