import pytest

from basicsr.config.yaml_file import load_yaml, parse_value
from basicsr.errors import OptionError


def read(tmp_path, text):
    path = tmp_path / "x.yml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_yaml(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("1E5", 1e5),
        ("!!float 2e-4", 2e-4),
        ("1_000e-2", 10.0),
        ("-1e-3", -1e-3),
        ("3", 3),
        ("~", None),
        ("yes", True),
        ("off", False),
        ("e4", "e4"),
        ("2024-01-01", "2024-01-01"),
        ("[1, 2e0]", [1, 2.0]),
        ("'2e-4'", "2e-4"),
    ],
)
def test_values_have_the_expected_types(text, value):
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_every_key_has_its_line(tmp_path):
    values, places = read(tmp_path, "a: 1\nb:\n  - c: 2\n  - d\n")
    assert values == {"a": 1, "b": [{"c": 2}, "d"]}
    assert places[("b", 0, "c")] == f"{tmp_path / 'x.yml'}:3"
    assert places[("b", 1)] == f"{tmp_path / 'x.yml'}:4"


def test_merged_keys_have_the_line_of_their_anchor(tmp_path):
    values, places = read(tmp_path, "base: &b\n  x: 1\nuse:\n  <<: *b\n  y: 2\n")
    assert values["use"] == {"x": 1, "y": 2}
    assert places[("use", "x")].endswith(":2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "x.yml:3: duplicate key 'a', in lines 1 and 3"),
        ("a: [1\nb: 2\n", "x.yml:2: "),
        ("- 1\n", "x.yml: expected `key: value` lines at the top level, got list"),
        (b"a: \xff\n", "x.yml: is not UTF-8 text (byte 3)"),
        ("a: !!python/object/apply:os.system ['true']\n", "x.yml:1: the tag !!python"),
        ("a: &a [*a]\n", "nested too deeply or too large"),
        ("[1, 2]: 3\n", "x.yml:1: "),
        (
            "\n".join(
                ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
                + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
            ),
            "too large",
        ),
    ],
)
def test_wrong_files_are_reported_with_file_and_line(tmp_path, text, message):
    with pytest.raises(OptionError) as error:
        read(tmp_path, text)
    assert message in str(error.value)


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(OptionError, match="cannot be read"):
        load_yaml(tmp_path / "none.yml")


def test_other_users_of_pyyaml_are_not_affected():
    import yaml

    assert yaml.safe_load("2e-4") == "2e-4"


@pytest.mark.parametrize(
    ("text", "line", "advice"),
    [
        ("a: 1\n<<<<<<< HEAD\nb: 1\n=======\nb: 2\n>>>>>>> other\n", 2, "conflict marker of git; keep one"),
        ("a:\n  b: 1\n>>>>>>> other\n", 3, "conflict marker of git"),
        ("a:\n\tb: 1\n", 2, "write spaces instead"),
        ("a:\n  b: 1\n\tc: 2\n", 3, "write spaces instead"),
        ("a: !!python/tuple [1, 2]\n", 1, "the tag !!python/tuple is not allowed.*write a list such as"),
        ("a: !!python/object/apply:os.system ['true']\n", 1, "not allowed.*write the value without the tag"),
        ("a: !mine 1\n", 1, "the tag !mine is not allowed"),
        ("a: b: c\n", 1, "quotes around a text that holds a colon"),
        ("a: 1\nb\nc: 2\n", 3, "write `key: value`"),
        ("a: *.png\n", 1, "put quotes around"),
        ("a: @x\n", 1, "put quotes around"),
        ("a: %x\n", 1, "put quotes around"),
        ("a: {}x2\n", 1, "quotes"),
        ("a: [1, 2\nb: 3\n", 2, "closed|colon"),
        ("a: 1\n  b: 2\n", 2, "quotes around a text that holds a colon|indented"),
        ("a:\n  b: 1\n c: 2\n", 3, "indented by the same number"),
        ("a: 1\nb: 2\na: 3\n", 3, "duplicate key 'a', in lines 1 and 3; remove one"),
    ],
)
def test_a_fault_says_what_to_write_instead(tmp_path, text, line, advice):
    with pytest.raises(OptionError, match=rf"x\.yml:{line}: .*({advice})"):
        read(tmp_path, text)


def test_a_byte_order_mark_is_accepted(tmp_path):
    assert read(tmp_path, "\ufeffa: 1\n")[0] == {"a": 1}
