"""Makers of LMDBs in BasicSR's layout, for scripts that prepare data sets; needs `pip install basicsr[lmdb]`."""

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2

from basicsr.data.storage import META_INFO

DEFAULT_MAP_BYTES = 1 << 40  # address space, which takes no room on the disk
SLACK = 10  # times the bytes of the first image, for each image
MIN_MAP_BYTES = 1 << 26


def read_img_worker(path: str, key: str, compress_level: int) -> tuple[str, bytes, tuple[int, int, int]]:
    """Return the key, the image of a file as PNG, and its (height, width, channels).

    Raises:
        ValueError: when the file is no image.
    """
    image = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError(f"{path}: is no image that can be read")
    height, width, channels = (*image.shape, 1)[:3]
    return key, cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, compress_level])[1].tobytes(), (
        height, width, channels
    )  # fmt: skip


class LmdbMaker:
    """Writes images into a new LMDB, with `meta_info.txt`.

    Args:
        lmdb_path: folder to make, `*.lmdb`.
        map_size: bytes of address space, the most that the LMDB can grow to.
        batch: images between commits.
        compress_level: of the PNGs, for `meta_info.txt`.

    Raises:
        ImportError: without the package `lmdb`.
        ValueError: when the name has another suffix.
        FileExistsError: when it is there already.
    """

    def __init__(
        self, lmdb_path: str, map_size: int = DEFAULT_MAP_BYTES, batch: int = 5000, compress_level: int = 1
    ) -> None:
        if not str(lmdb_path).endswith(".lmdb"):
            raise ValueError(f"{lmdb_path}: the name must end in .lmdb, by which data sets recognise it")
        if Path(lmdb_path).exists():
            raise FileExistsError(f"{lmdb_path}: is there already; remove it first")
        try:
            import lmdb
        except ImportError as error:
            raise ImportError("pip install lmdb, to make LMDBs") from error
        self.lmdb_path = str(lmdb_path)
        self.batch = batch
        self.compress_level = compress_level
        self.env = lmdb.open(self.lmdb_path, map_size=map_size)
        self.txn = self.env.begin(write=True)
        self.txt_file = (Path(lmdb_path) / META_INFO).open("w", encoding="utf-8", errors="surrogateescape")
        self.counter = 0

    def put(self, img_byte: bytes, key: str, img_shape: Sequence[int]) -> None:
        """Add an image.

        Args:
            img_byte: its PNG file.
            key: its name without suffix.
            img_shape: height, width, channels.
        """
        self.counter += 1
        self.txn.put(key.encode("utf-8", "surrogateescape"), img_byte)
        height, width, channels = img_shape
        self.txt_file.write(f"{key}.png ({height},{width},{channels}) {self.compress_level}\n")
        if self.counter % self.batch == 0:
            self.txn.commit()
            self.txn = self.env.begin(write=True)

    def close(self) -> None:
        """Write what is left, and close the files."""
        self.txn.commit()
        self.env.close()
        self.txt_file.close()


def make_lmdb_from_imgs(
    data_path: str,
    lmdb_path: str,
    img_path_list: Sequence[str],
    keys: Sequence[str],
    batch: int = 5000,
    compress_level: int = 1,
    multiprocessing_read: bool = False,
    n_thread: int = 40,
    map_size: int | None = None,
) -> None:
    """Make an LMDB of images; it is removed again where an image cannot be read.

    Args:
        data_path: folder of the images.
        lmdb_path: folder to make, `*.lmdb`.
        img_path_list: paths of the images, relative to `data_path`.
        keys: their keys, one each.
        batch: images between commits.
        compress_level: of the PNGs, 0 (fast) to 9 (small).
        multiprocessing_read: read several images at a time.
        n_thread: how many.
        map_size: see `LmdbMaker`; None: enough for images that are ten times the first one.

    Raises:
        ValueError: when there are no images, or another number of keys, or an image cannot be read.
    """
    if not img_path_list or len(img_path_list) != len(keys):
        raise ValueError(
            f"img_path_list and keys should have the same length, above 0, but got {len(img_path_list)} and {len(keys)}"
        )
    paths = [str(Path(data_path) / path) for path in img_path_list]
    if map_size is None:
        first = read_img_worker(paths[0], keys[0], 0)[1]
        map_size = max(MIN_MAP_BYTES, SLACK * len(first) * len(paths))
    maker = LmdbMaker(lmdb_path, map_size, batch, compress_level)
    levels = [compress_level] * len(paths)
    try:
        if multiprocessing_read:
            with ThreadPoolExecutor(n_thread) as pool:  # OpenCV decodes and encodes outside Python's lock
                _put_all(maker, pool.map(read_img_worker, paths, keys, levels))
        else:
            _put_all(maker, map(read_img_worker, paths, keys, levels))
    except BaseException:
        maker.env.close()
        maker.txt_file.close()
        shutil.rmtree(lmdb_path)
        raise
    maker.close()


def _put_all(maker: LmdbMaker, images: Any) -> None:
    for key, png, shape in images:
        maker.put(png, key, shape)
