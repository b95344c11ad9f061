import os
import pickle

import numpy as np
import pytest

from basicsr.data import cache, storage
from basicsr.data.cache import CachedImages
from basicsr.data.storage import FolderImages, StoredImage
from basicsr.images.files import list_images, read_image, write_image


@pytest.fixture
def paths(photos):
    return [photos / name for name in list_images(photos)]


@pytest.fixture
def reads(monkeypatch):
    """Paths in the order they were decoded in this process."""
    log = []
    decode = storage.decode_image
    monkeypatch.setattr(storage, "decode_image", lambda data, path: log.append(path) or decode(data, path))
    return log


def make(paths, cache_mb):
    folder = FolderImages(paths[0].parent)
    names = [path.name for path in paths]
    return CachedImages([StoredImage(folder, name) for name in names], folder.sizes(names), cache_mb)


def test_each_image_is_decoded_once(paths, reads):
    images = make(paths, 10)
    for _ in range(3):
        for position, path in enumerate(paths):
            np.testing.assert_array_equal(images[position], read_image(path))
    assert reads == paths
    assert len(images) == len(paths)


def test_images_made_from_others_are_made_once(paths):
    folder = FolderImages(paths[0].parent)
    images = CachedImages([StoredImage(folder, paths[0].name)], [*folder.sizes([paths[0].name]), (4, 5)], 10)
    made, small = [], np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    for _ in range(2):
        np.testing.assert_array_equal(images.get(1, lambda: made.append(1) or small), small)
    assert made == [1] and images.has_room_for(1) and len(images) == 1
    assert not CachedImages(images.images, images.sizes, 0).has_room_for(0)


def test_cached_pixels_cannot_be_written_to(paths):
    images = make(paths, 10)
    with pytest.raises(ValueError, match="read-only"):
        images[0][0, 0, 0] = 1


def test_no_cache(paths, reads):
    images = make(paths, 0)
    assert images.cache_bytes == 0
    images[0], images[0]
    assert reads == [paths[0]] * 2


def test_the_limit_holds_and_the_first_images_are_kept(paths, reads, monkeypatch):
    sizes = [read_image(path).shape[:2] for path in paths]
    need = [3 * height * width + 1 for height, width in sizes]
    monkeypatch.setattr(cache, "BYTES_PER_MB", sum(need[:2]) + need[2] - 1)  # one byte short of three images
    images = make(paths, 1)
    assert images.cache_bytes == sum(need[:2]) <= cache.BYTES_PER_MB
    for _ in range(2):
        for position in range(len(paths)):
            np.testing.assert_array_equal(images[position], read_image(paths[position]))
    assert reads == paths + paths[2:]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_processes_share_it(paths, reads):
    images = make(paths, 10)
    child = os.fork()
    if child == 0:
        images[1]
        os._exit(0)
    os.waitpid(child, 0)
    np.testing.assert_array_equal(images[1], read_image(paths[1]))
    assert reads == []  # decoded by the child alone
    images[0]
    assert reads == [paths[0]]


def test_a_pickled_copy_works_for_itself(paths, reads):
    images = make(paths, 10)
    images[0]
    data = pickle.dumps(images)
    assert len(data) < 10_000  # no pixels travel
    copy = pickle.loads(data)
    np.testing.assert_array_equal(copy[0], images[0])
    copy[0]
    assert reads == [paths[0]] * 2


def test_sixteen_bit_images_are_read_each_time(tmp_path, reads):
    deep = np.full((4, 5, 3), 1000, np.uint16)
    write_image(tmp_path / "a.png", deep)
    images = make([tmp_path / "a.png"], 1)
    for _ in range(2):
        np.testing.assert_array_equal(images[0], deep)
    assert len(reads) == 2
