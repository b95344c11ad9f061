import shutil

import pytest

from basicsr.data.single_image_dataset import SingleImageDataset
from basicsr.images.files import list_images

SCRIPT = "data_preparation/generate_meta_info.py"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_lists_what_data_sets_read(script, photos, tmp_path, capsys, workers):
    shutil.copytree(photos, tmp_path / "in/sub dir")
    listing = tmp_path / "out/meta.txt"
    assert script.main(["-i", str(tmp_path / "in"), "-o", str(listing), "--workers", workers]) == 0
    assert capsys.readouterr().out == f"{listing}: 5 images\n"
    assert listing.read_text().splitlines()[0] == "sub dir/astronaut.png (144,121,3)"
    dataset = SingleImageDataset(dataroot_lq=str(tmp_path / "in"), meta_info_file=str(listing))
    assert [path.relative_to(tmp_path / "in").as_posix() for path in dataset.lq_paths] == list_images(tmp_path / "in")
    assert list(listing.parent.iterdir()) == [listing]


def test_mistakes(refused, photos, tmp_path):
    assert refused("-i", tmp_path, "-o", tmp_path / "meta.txt") == f"{tmp_path}: no images; check the path"
    assert refused("-i", tmp_path / "no", "-o", tmp_path / "meta.txt") == f"{tmp_path / 'no'}: no such folder"
    assert refused("-i", photos, "-o", tmp_path / "meta.txt", "--workers", 0) == "--workers must be at least 1"
    (tmp_path / "a.png").write_bytes((photos / "coffee.png").read_bytes()[:-20])
    assert "a.png: the file is cut off" in refused("-i", tmp_path, "-o", tmp_path / "meta.txt")
    assert not (tmp_path / "meta.txt").exists()
