"""Fixtures for the tests of data sets."""

import pytest

from basicsr.data.storage import META_INFO, lmdb_key
from basicsr.images.files import image_size, list_images


@pytest.fixture
def make_lmdb(tmp_path):
    """Return a function that makes an LMDB in BasicSR's layout: `make_lmdb(folder, name)` -> its path."""
    lmdb = pytest.importorskip("lmdb")

    def make(folder, name):
        root = tmp_path / f"{name}.lmdb"
        with lmdb.open(str(root), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
            for image in list_images(folder):
                transaction.put(lmdb_key(image), (folder / image).read_bytes())
        sizes = {image: image_size(folder / image) for image in list_images(folder)}
        lines = [f"{image} ({height},{width},3) 1\n" for image, (height, width) in sizes.items()]
        (root / META_INFO).write_text("".join(lines))
        return root

    return make
