import os
import shutil

import numpy as np
import pytest
from helpers import damage_pixels

from basicsr.data.storage import LmdbImages
from basicsr.images.files import list_images, read_image, write_image

pytest.importorskip("lmdb")
SCRIPT = "data_preparation/create_lmdb.py"


@pytest.fixture
def run(script, capsys):
    def run(source, target, *arguments, workers=1):
        options = ["-i", source, "-o", target, "--workers", workers, *arguments]
        code = script.main([str(option) for option in options])
        return code, capsys.readouterr().out.strip()

    return run


@pytest.fixture
def encoded(script, monkeypatch):
    """Names of the images in the order they were encoded, in this process."""
    log = []

    def in_this_process(function, jobs, workers):
        for job in jobs:
            log.append(job.source.name)
            yield function(job)

    monkeypatch.setattr(script, "in_parallel", in_this_process)
    return log


def test_layout_and_pixels(run, photos, tmp_path):
    source, target = tmp_path / "in", tmp_path / "out/a.lmdb"
    shutil.copytree(photos, source / "sub")
    write_image(source / "deep.tif", np.full((8, 9, 3), 40000, np.uint16))
    write_image(source / "lossy.v1.jpg", read_image(photos / "coffee.png"))
    assert run(source, target, "--compression", 4, workers=2) == (0, f"{target}: 7 images")
    assert sorted(path.name for path in target.iterdir()) == ["data.mdb", "lock.mdb", "meta_info.txt"]
    assert list(target.parent.iterdir()) == [target]
    lines = (target / "meta_info.txt").read_text().splitlines()
    assert lines[:3] == ["deep.tif (8,9,3) 4", "lossy.v1.jpg (130,130,3) 4", "sub/astronaut.png (144,121,3) 4"]
    store = LmdbImages(target)
    assert store.names() == list_images(source)
    for name in store.names():
        np.testing.assert_array_equal(store.read(name), read_image(source / name))


def test_a_second_run_changes_nothing(run, encoded, photos, tmp_path):
    target = tmp_path / "a.lmdb"
    run(photos, target)
    stamp = (target / "data.mdb").stat().st_mtime_ns
    assert run(photos, target) == (0, f"{target}: 5 images, made before")
    assert (target / "data.mdb").stat().st_mtime_ns == stamp and len(encoded) == 5
    assert run(photos, target, "--compression", 2, "--overwrite") == (0, f"{target}: 5 images")
    assert (target / "meta_info.txt").read_text().endswith(" 2\n") and len(encoded) == 10


class TestStopped:
    @pytest.fixture
    def stopped(self, script, run, encoded, photos, tmp_path, monkeypatch):
        """A run that broke off before its second batch of two images was stored."""
        put, batches = script.put, []

        def break_off(environment, batch):
            if batches:
                raise KeyboardInterrupt
            batches.append(batch)
            put(environment, batch)

        with monkeypatch.context() as patch:
            patch.setattr(script, "COMMIT_EVERY", 2)
            patch.setattr(script, "put", break_off)
            with pytest.raises(KeyboardInterrupt):
                run(photos, tmp_path / "a.lmdb")
        encoded.clear()
        assert not (tmp_path / "a.lmdb").exists()
        return tmp_path / "a.lmdb"

    def test_goes_on(self, run, encoded, stopped, photos):
        run(photos, stopped)
        assert encoded == list_images(photos)[2:]
        for name in list_images(photos):
            np.testing.assert_array_equal(LmdbImages(stopped).read(name), read_image(photos / name))

    def test_begins_anew_when_the_task_has_changed(self, run, encoded, stopped, photos):
        run(photos, stopped, "--compression", 0)
        assert encoded == list_images(photos)
        assert list(stopped.parent.glob("*.part")) == []


class TestMistakes:
    def test_paths(self, refused, photos, tmp_path):
        assert refused("-i", tmp_path / "no", "-o", tmp_path / "a.lmdb") == f"{tmp_path / 'no'}: no such folder"
        assert refused("-i", tmp_path, "-o", tmp_path / "a.lmdb") == f"{tmp_path}: no images; check the path"
        assert "must end in .lmdb" in refused("-i", photos, "-o", tmp_path / "a")
        assert refused("-i", photos, "-o", tmp_path / "a.lmdb", "--workers", 0) == "--workers must be at least 1"

    def test_something_else_is_there(self, run, refused, photos, tmp_path):
        run(photos, tmp_path / "a.lmdb")
        message = refused("-i", photos, "-o", tmp_path / "a.lmdb", "--compression", 9)
        assert message == f"{tmp_path / 'a.lmdb'}: holds something else; remove it, or replace it with --overwrite"

    def test_names(self, refused, photos, tmp_path):
        for name in ("a.png", "a.jpg"):
            write_image(tmp_path / "in" / name, read_image(photos / "coffee.png"))
        message = refused("-i", tmp_path / "in", "-o", tmp_path / "a.lmdb")
        assert message.endswith("a.jpg and a.png have the same key 'a'; rename one")
        os.remove(tmp_path / "in/a.jpg")
        for part in ("b" * 250, "c" * 250):
            (tmp_path / "in" / part / ("d" * 20)).mkdir(parents=True)
        deep = tmp_path / "in" / ("b" * 250) / ("c" * 250)
        write_image(deep / f"{'d' * 20}.png", read_image(photos / "coffee.png"))
        assert "longer than the 511 bytes that LMDB allows" in refused("-i", tmp_path / "in", "-o", tmp_path / "a.lmdb")

    def test_damaged_pixels(self, refused, photos, tmp_path):
        data = bytearray((photos / "coffee.png").read_bytes())
        data[12:16] = b"XXXX"  # no header, but an end
        (tmp_path / "in").mkdir()
        (tmp_path / "in/a.png").write_bytes(data)
        assert "1 of 1 images cannot be used" in refused("-i", tmp_path / "in", "-o", tmp_path / "a.lmdb")
        assert not (tmp_path / "a.lmdb").exists()

    def test_an_unreadable_image_does_not_stop_the_others(self, run, encoded, refused, photos, tmp_path):
        source, target = tmp_path / "in", tmp_path / "a.lmdb"
        shutil.copytree(photos, source)
        damage_pixels(source / "coffee.png")
        message = refused("-i", source, "-o", target, "--workers", 1)
        assert message.startswith("1 of 5 images failed") and "coffee.png: cannot be decoded" in message
        assert not target.exists() and len(encoded) == 5
        shutil.copy(photos / "coffee.png", source)
        assert run(source, target) == (0, f"{target}: 5 images")
        assert encoded[5:] == ["coffee.png"]  # the others were kept
        for name in list_images(photos):
            np.testing.assert_array_equal(LmdbImages(target).read(name), read_image(photos / name))
