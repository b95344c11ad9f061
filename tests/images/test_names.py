from basicsr.images.names import distinct, distinct_names, image_name


def test_names_are_relative_and_without_suffix():
    assert image_name("gt/a/b.c.png", "gt") == "a/b.c"
    assert image_name("gt/a/b.png", None) == image_name("gt/a/b.png", "elsewhere") == "b"


def test_images_of_one_stem_get_names_of_their_own():
    paths = ["x/a.jpg", "x/a.png", "x/A.png", "x/a~2.png", "x/b/a.png", "x/a.jpg"]
    names = distinct_names(paths, "x")
    assert list(names.values()) == ["a", "a~2", "A~3", "a~2~2", "b/a"]  # one path, listed twice, has one name
    assert len({name.casefold() for name in names.values()}) == 5


def test_taken_names_are_kept():
    taken = set()
    assert [distinct(name, taken) for name in "aab"] == ["a", "a~2", "b"] and taken == {"a", "a~2", "b"}
