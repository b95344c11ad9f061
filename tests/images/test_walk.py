import logging
import os

import pytest

from basicsr.compat.misc import scandir
from basicsr.images.files import list_images
from basicsr.images.walk import log_passed_over, walk


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def is_png(name):
    return name.endswith(".png")


def test_hidden_files_and_folders_are_passed_over_and_counted(tmp_path):
    root = tmp_path / ".hidden" / "set"  # a name above the folder does not matter
    put(root, "a.PNG", "sub/b.png", "._a.png", ".trash/c.png", ".ipynb_checkpoints/a-checkpoint.png")
    put(root, "__MACOSX/d.png", "Thumbs.db", "sub/.DS_Store", "meta.txt", "e.HEIC", "sub/f.heic", "g.gif", "noext")
    found = walk(root, is_png)
    assert found.names == ["a.PNG", "sub/b.png"]
    assert found.unknown == ["e.HEIC", "g.gif", "noext", "sub/f.heic"]
    assert str(found) == "2 .heic, 1 .gif, 1 without suffix (unknown type), 6 hidden, 1 text and data"


def test_linked_folders_are_entered_but_no_circle(tmp_path):
    put(tmp_path / "elsewhere", "deep/b.png")
    root = tmp_path / "root"
    put(root, "a.png", "x/c.png")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "x" / "up").symlink_to(root)
    (tmp_path / "elsewhere" / "deep" / "me").symlink_to(tmp_path / "elsewhere")
    found = walk(root, is_png)
    assert found.names == ["a.png", "link/deep/b.png", "x/c.png"]
    assert found.passed_over == {"links to a folder above them": 2}


def test_a_dangling_link_is_an_image_that_cannot_be_read(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone")
    assert walk(tmp_path, is_png).names == ["a.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_an_unreadable_folder_is_an_error(tmp_path):
    put(tmp_path, "locked/a.png")
    (tmp_path / "locked").chmod(0)
    with pytest.raises(PermissionError, match="locked"):
        walk(tmp_path, is_png)


def test_scandir_and_data_sets_follow_the_same_rule(tmp_path):
    put(tmp_path, "b.PNG", "a.png", "sub.png/c.png", ".trash/d.png", "__MACOSX/e.png")
    assert (
        list(scandir(tmp_path, "png", recursive=True)) == list_images(tmp_path) == ["a.png", "b.PNG", "sub.png/c.png"]
    )
    assert list(scandir(tmp_path, "png")) == ["a.png", "b.PNG"]


def test_the_log_warns_only_of_unknown_types(tmp_path, caplog):
    caplog.set_level(logging.INFO, "basicsr")
    put(tmp_path, "a.png", "b.txt")
    log_passed_over(tmp_path, walk(tmp_path, is_png))
    put(tmp_path, "c.wmv")
    log_passed_over(tmp_path, walk(tmp_path, is_png))
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert "1 files are taken; passed over: 1 .wmv (unknown type), 1 text and data" in caplog.records[1].getMessage()
