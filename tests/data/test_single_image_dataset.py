import numpy as np
import pytest

from basicsr.data.single_image_dataset import SingleImageDataset
from basicsr.images.files import list_images, read_image, to_pixels


def test_samples(photos):
    samples = list(SingleImageDataset(dataroot_lq=str(photos)))
    assert [sample["lq_path"] for sample in samples] == [str(photos / name) for name in list_images(photos)]
    for sample in samples:
        assert sample.keys() == {"lq", "lq_path"}
        np.testing.assert_array_equal(to_pixels(sample["lq"]), read_image(sample["lq_path"]))


def test_options(photos, tmp_path):
    (tmp_path / "meta.txt").write_text("rocket.png\n")
    dataset = SingleImageDataset(
        dataroot_lq=str(photos), meta_info_file=str(tmp_path / "meta.txt"), color="y", cache_mb=1
    )
    assert len(dataset) == 1 and dataset[0]["lq"].shape == (1, 139, 128)


def test_invalid_arguments(photos, tmp_path):
    with pytest.raises(FileNotFoundError, match="no images; check the path"):
        SingleImageDataset(dataroot_lq=str(tmp_path))
    with pytest.raises(ValueError, match=r"io_backend\.type"):
        SingleImageDataset(dataroot_lq=str(photos), io_backend={"type": "memcached"})
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"a\.png: cannot be decoded"):
        SingleImageDataset(dataroot_lq=str(tmp_path))
