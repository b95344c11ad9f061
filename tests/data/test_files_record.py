import os
import shutil
from types import SimpleNamespace

import pytest
import torch

from basicsr.data import files_record
from basicsr.data.files_record import FilesRecord, record_files
from basicsr.data.storage import FolderImages, LmdbImages, StoredImage
from basicsr.images.files import list_images

FILES = {"a.png": b"a" * 30_000, "sub/b.png": b"b" * 20_000, "c.png": b"c" * 100}


@pytest.fixture(params=["whole", "samples"])
def method(request, monkeypatch):
    """A set that counts as small, of which all bytes are read, or as large."""
    if request.param == "samples":
        monkeypatch.setattr(files_record, "WHOLE_SET_BYTES", 0)
    return request.param


@pytest.fixture
def folder(tmp_path):
    for name, data in FILES.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(data)
    return tmp_path / "set"


def record(folder, content=False, names=None):
    store = FolderImages(folder)
    images = [StoredImage(store, name) for name in names or store.names()]
    return record_files(SimpleNamespace(stored_images=images), content)


def edit(path, position):
    """Change one byte, neither length nor time."""
    data, status = bytearray(path.read_bytes()), path.stat()
    data[position] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_copy_with_other_times_is_the_same(folder, tmp_path, method):
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    for path in (tmp_path / "copy").rglob("*.png"):
        os.utime(path, (5, 5))
    first, second = record(folder), record(tmp_path / "copy")
    assert first == second and first.facts() == second.facts() and second.changes_since(first) == ""
    assert first.facts()["files"].startswith("3 files, ") and set(first.facts()) == {"files", "samples"}


@pytest.mark.parametrize("position", [0, 15_000, -1])
def test_another_file_of_equal_length_and_time(position, folder, method):
    before = record(folder)
    edit(folder / "a.png", position)
    now = record(folder)
    assert now.changes_since(before) == "of other content: a.png"
    assert now.facts()["files"] == before.facts()["files"] and now.facts()["samples"] != before.facts()["samples"]


def test_all_bytes_where_asked(folder, method):
    before, sampled = record(folder, content=True), record(folder)
    edit(folder / "a.png", 8_000)  # between the samples
    now = record(folder, content=True)
    assert now.changes_since(before) == "of other content: a.png"
    assert now.facts()["content"] != before.facts()["content"]
    assert bool(record(folder).changes_since(sampled)) == (method == "whole")  # the limit of samples
    assert now.facts()["samples"] == record(folder).facts()["samples"]  # so that both kinds of run can be compared


def test_changes_are_named(folder, method):
    before = record(folder)
    (folder / "c.png").rename(folder / "d.png")
    assert record(folder).changes_since(before) == "removed: c.png; new: d.png"
    (folder / "sub" / "b.png").write_bytes(b"x")
    assert record(folder).changes_since(before) == "removed: c.png; new: d.png; of another length: sub/b.png"
    for k in range(5):
        (folder / f"e{k}.png").write_bytes(b"")
    assert "new: d.png, e0.png, e1.png and 3 more" in record(folder).changes_since(before)


def test_order_counts_and_so_do_repeats(folder):
    before = record(folder, names=["a.png", "c.png"])
    other = record(folder, names=["c.png", "a.png"])
    assert other.changes_since(before) == "in another order" and other.facts()["files"] != before.facts()["files"]
    assert record(folder, names=["a.png", "a.png"]).changes_since(before) == "removed: c.png; new: a.png"


def test_a_record_travels_in_a_state(folder):
    folder.joinpath("\u00e9\udcff.png").write_bytes(b"name of no UTF-8")
    found = record(folder, content=True)
    assert FilesRecord.from_tensor(found.to_tensor()) == found
    for other in (None, "text", torch.zeros(3), torch.zeros(3, dtype=torch.uint8)):
        assert FilesRecord.from_tensor(other) is None


def test_data_sets_of_others_are_not_described():
    assert record_files([1, 2]) is None


def test_an_lmdb_is_the_same_as_the_folder_whose_files_it_holds(photos, make_lmdb):
    store = LmdbImages(make_lmdb(photos, "a"))
    names = list_images(photos)
    found = record_files(SimpleNamespace(stored_images=[StoredImage(store, name) for name in names]))
    assert found == record(photos, names=names)
