import pytest

from basicsr.data.data_sampler import SampleIndex, locate
from basicsr.data.listing import chosen_names, partner_names
from basicsr.data.storage import FolderImages


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return FolderImages(folder)


class TestNames:
    def test_meta_file_chooses_and_orders(self, tmp_path):
        images = touch(tmp_path / "gt", "a.png", "b.png", "sub/c d.png")
        (tmp_path / "meta.txt").write_text("sub/c d.png (480,480,3)\n\na.png\n")
        assert chosen_names(images, str(tmp_path / "meta.txt")) == ["sub/c d.png", "a.png"]
        assert chosen_names(images) == ["a.png", "b.png", "sub/c d.png"]

    def test_meta_file_lists_what_is_not_there(self, tmp_path):
        images = touch(tmp_path / "gt", "a.png")
        (tmp_path / "meta.txt").write_text("a.png\nb.png\n")
        with pytest.raises(FileNotFoundError, match=r"gt: 1 of 2 images cannot .*\n  b.png: listed in .*meta.txt"):
            chosen_names(images, str(tmp_path / "meta.txt"))

    def test_nothing_there(self, tmp_path):
        images = touch(tmp_path / "gt", "notes.txt")
        with pytest.raises(FileNotFoundError, match="gt: no images; check the path"):
            chosen_names(images)
        with pytest.raises(FileNotFoundError, match=r"meta\.txt"):
            chosen_names(images, str(tmp_path / "meta.txt"))


class TestPartners:
    def test_template_subfolders_and_suffixes(self, tmp_path):
        images = touch(tmp_path, "ax4.jpg", "sub/bx4.png", "a.png")
        assert partner_names(["a.png", "sub/b.png"], images, "{}x4") == ["ax4.jpg", "sub/bx4.png"]
        assert partner_names(["a.jpg"], images, "{}") == ["a.png"]

    def test_two_suffixes_of_one_stem(self, tmp_path):
        images = touch(tmp_path, "a.jpg", "a.png", "b.bmp")
        assert partner_names(["a.jpg", "a.png"], images, "{}") == ["a.jpg", "a.png"]
        with pytest.raises(ValueError, match=r"a\.bmp: its LQ image may be a\.jpg or a\.png; remove or rename one"):
            partner_names(["a.bmp"], images, "{}")
        with pytest.raises(ValueError, match=r"b\.png: has the same LQ image as b\.jpg, b\.bmp; rename"):
            partner_names(["b.jpg", "b.png"], images, "{}")
        assert partner_names(["b.jpg", "b.jpg"], images, "{}") == ["b.bmp", "b.bmp"]  # listed twice in a meta file

    def test_dots_in_names(self, tmp_path):
        images = touch(tmp_path, "img.v1x2.png")
        assert partner_names(["img.v1.png"], images, "{}x2") == ["img.v1x2.png"]

    def test_missing_ones_are_counted_and_the_first_named(self, tmp_path):
        images = touch(tmp_path, "0x4.png")
        with pytest.raises(FileNotFoundError) as error:
            partner_names([f"{i}.png" for i in range(9)], images, "{}x4")
        lines = str(error.value).splitlines()
        assert lines[0].endswith("8 of 9 images cannot be used:")
        assert lines[1] == "  1.png: its LQ image 1x4.* is missing; check filename_tmpl ('{}x4')"
        assert lines[-1] == "  and 3 more" and len(lines) == 7

    def test_template_without_a_place(self, tmp_path):
        with pytest.raises(ValueError, match=r"filename_tmpl: must contain \{\} .*got 'x4'"):
            partner_names(["a.png"], FolderImages(tmp_path), "x4")


def test_locate():
    assert locate(SampleIndex(3, 12), 5) == (SampleIndex(3, 12), 2)
    assert locate(4, 5) == (SampleIndex(0, 4), 4)
    for key in (-1, 5):
        with pytest.raises(IndexError, match=f"sample {key} of a data set of 5 images"):
            locate(key, 5)


@pytest.mark.parametrize(
    "line",
    [
        "a b.png",
        "a b.png (480,480,3)",
        "a b.png (480, 480, 3) 1",
        "a b.png 480 480 3",
        "a b.png\t480\t480",
        "a b.png 480x480",
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_every_form_of_a_meta_file(tmp_path, line, mark):
    images = touch(tmp_path / "gt", "a b.png", "c.png", "frame 12")
    (tmp_path / "meta.txt").write_bytes(mark + f"{line}\r\nc.png 1 1 3\r\n".encode())
    assert chosen_names(images, str(tmp_path / "meta.txt")) == ["a b.png", "c.png"]


def test_a_name_that_ends_like_sizes_is_a_name(tmp_path):
    from basicsr.data.listing import name_in_meta_line

    assert name_in_meta_line("frame 12\n", {"frame 12"}) == "frame 12"
