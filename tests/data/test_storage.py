import builtins
import os
import pickle

import numpy as np
import pytest

from basicsr.data.single_image_dataset import SingleImageDataset
from basicsr.data.storage import (
    META_INFO,
    FolderImages,
    LmdbImages,
    StoredImage,
    lmdb_key,
    open_store,
    raise_for_faults,
)
from basicsr.images.files import list_images, read_image, to_pixels, write_image

LMDB = {"type": "lmdb"}


class TestOpening:
    @pytest.mark.parametrize("io_backend", [None, {}, {"type": "disk"}])
    def test_folders(self, photos, io_backend):
        store = open_store(str(photos), io_backend)
        assert isinstance(store, FolderImages) and store.names() == list_images(photos)

    def test_lmdb(self, photos, make_lmdb):
        store = open_store(f"{make_lmdb(photos, 'a')}/", LMDB)
        assert isinstance(store, LmdbImages) and store.names() == list_images(photos)

    @pytest.mark.parametrize(("kind", "hint"), [("memcached", "memcached is not supported"), ("zip", "choose one")])
    def test_other_back_ends(self, kind, hint):
        with pytest.raises(ValueError, match=f"io_backend.type: must be 'disk' or 'lmdb', got '{kind}'; {hint}"):
            open_store("x", {"type": kind})

    def test_back_end_and_path_must_agree(self, photos):
        with pytest.raises(ValueError, match=r"x.lmdb: is LMDB .* but io_backend is disk; set io_backend"):
            open_store("x.lmdb")
        with pytest.raises(ValueError, match=r"is no LMDB .* but io_backend is lmdb; make it with .*create_lmdb.py"):
            open_store(str(photos), LMDB)

    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
            open_store(str(tmp_path / "nowhere"))
        with pytest.raises(FileNotFoundError, match=r"data\.mdb: no such file, so .*nowhere\.lmdb is no LMDB"):
            open_store(str(tmp_path / "nowhere.lmdb"), LMDB)


class TestFolder:
    def test_sizes_name_all_damaged_files(self, photos, tmp_path):
        assert FolderImages(photos).sizes(["astronaut.png"]) == [(144, 121)]
        (tmp_path / "cut.png").write_bytes((photos / "astronaut.png").read_bytes()[:-20])
        (tmp_path / "none.png").write_bytes(b"x")
        write_image(tmp_path / "good.png", np.zeros((4, 4, 3), np.uint8))
        folder = FolderImages(tmp_path)
        with pytest.raises(ValueError, match="2 of 3 images cannot be used") as error:
            folder.sizes(folder.names())
        assert "cut.png: the file is cut off" in str(error.value)
        assert "none.png: cannot be decoded" in str(error.value)
        with pytest.raises(FileNotFoundError):
            folder.sizes(["gone.png"])


class TestLmdb:
    def test_names_sizes_pixels_and_paths(self, photos, make_lmdb):
        folder, store = FolderImages(photos), LmdbImages(make_lmdb(photos, "a"))
        assert store.sizes(store.names()) == folder.sizes(folder.names())
        for name in store.names():
            image = StoredImage(store, name)
            np.testing.assert_array_equal(image.read(), read_image(photos / name))
            assert image.path == store.root / name

    def test_lengths(self, photos, make_lmdb):
        folder, store = FolderImages(photos), LmdbImages(make_lmdb(photos, "a"))
        for name in folder.names():
            assert store.length(name) == folder.length(name) == len((photos / name).read_bytes())

    def test_two_images_of_one_key_are_refused(self, photos, make_lmdb):
        root = make_lmdb(photos, "a")
        with (root / "meta_info.txt").open("a") as file:
            file.write("coffee.jpg (130,130,3) 1\n")
        with pytest.raises(ValueError, match=r"coffee\.jpg has the key of coffee\.png"):
            LmdbImages(root)

    def test_building_decodes_nothing(self, photos, make_lmdb, monkeypatch):
        root = make_lmdb(photos, "a")
        monkeypatch.setattr("basicsr.data.storage.decode_image", lambda *_: pytest.fail("decoded"))
        SingleImageDataset(dataroot_lq=str(root), io_backend=LMDB)

    def test_subfolders_and_dots(self, photos, make_lmdb, tmp_path):
        write_image(tmp_path / "in/sub/a.b.png", read_image(photos / "coffee.png"))
        store = LmdbImages(make_lmdb(tmp_path / "in", "a"))
        assert store.names() == ["sub/a.b.png"] and lmdb_key("sub/a.b.png") == b"sub/a.b"
        assert store.read("sub/a.b.png").shape == (130, 130, 3)

    def test_a_data_set(self, photos, make_lmdb, tmp_path):
        (tmp_path / "meta.txt").write_text("rocket.png (139,128,3)\n")
        dataset = SingleImageDataset(
            dataroot_lq=str(make_lmdb(photos, "a")), io_backend=LMDB, meta_info_file=str(tmp_path / "meta.txt")
        )
        (sample,) = dataset
        assert sample["lq_path"] == str(tmp_path / "a.lmdb/rocket.png")
        np.testing.assert_array_equal(to_pixels(sample["lq"]), read_image(photos / "rocket.png"))

    def test_twice_in_one_process_and_pickled(self, photos, make_lmdb):
        root = make_lmdb(photos, "a")
        one, other = LmdbImages(root), LmdbImages(root.parent / "." / root.name)
        copy = pickle.loads(pickle.dumps(one))
        for store in (one, other, copy):
            assert store.read("coffee.png").shape == (130, 130, 3)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_forked_processes_open_their_own(self, photos, make_lmdb):
        store = LmdbImages(make_lmdb(photos, "a"))
        expected = store.read("coffee.png")
        child = os.fork()
        if child == 0:
            os._exit(0 if np.array_equal(store.read("coffee.png"), expected) else 1)
        assert os.waitpid(child, 0)[1] == 0
        np.testing.assert_array_equal(store.read("coffee.png"), expected)

    def test_a_list_that_does_not_match_the_data(self, photos, make_lmdb):
        root = make_lmdb(photos, "a")
        meta = (root / META_INFO).read_text()
        (root / META_INFO).write_text(meta.replace("130,130", "130,131"))
        with pytest.raises(
            ValueError, match=r"coffee.png: meta_info.txt lists \(130, 131\), the image is \(130, 130\)"
        ):
            LmdbImages(root).read("coffee.png")
        (root / META_INFO).write_text(f"{meta}gone.png (1,1,3) 1\n")
        with pytest.raises(ValueError, match=r"1 of 6 images(.|\n)*gone.png: listed in meta_info.txt, not in the data"):
            LmdbImages(root)
        (root / META_INFO).write_text("coffee.png\n")
        with pytest.raises(ValueError, match=r"meta_info.txt:1: expected `name.png \(height,.* got 'coffee.png'"):
            LmdbImages(root)
        (root / META_INFO).unlink()
        with pytest.raises(FileNotFoundError, match=r"meta_info\.txt: no such file"):
            LmdbImages(root)

    def test_damaged(self, photos, make_lmdb, tmp_path):
        root = make_lmdb(photos, "a")
        (root / "data.mdb").write_bytes(b"x" * 10_000)
        with pytest.raises(ValueError, match=r"a.lmdb: cannot be opened as an LMDB \(.*\); make it with"):
            LmdbImages(root)

    def test_without_the_package(self, photos, make_lmdb, monkeypatch):
        root = make_lmdb(photos, "a")
        real = builtins.__import__

        def missing(name, *args):
            if name == "lmdb":
                raise ImportError(name)
            return real(name, *args)

        monkeypatch.setattr(builtins, "__import__", missing)
        with pytest.raises(ValueError, match=r"needs a package that is missing; run `pip install lmdb`"):
            LmdbImages(root)


def test_no_faults_raise_no_error(tmp_path):
    raise_for_faults(tmp_path, [], 3)
