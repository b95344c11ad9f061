"""Fuzzing of option files: each gives options or one message, never a traceback, a hang or excessive memory use.

The full campaign: `make fuzz`. One case alone: `pytest -k test_fuzz_options` after setting `cases` to its number.
"""

import re
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from reliability.mutations import bounded, campaign, cases, option_file, override, peak_mb, quiet, report

from basicsr import test as test_command
from basicsr import train as train_command
from basicsr.config.convert import convert
from basicsr.config.faults import MAX_FAULTS, OptionFaultsError
from basicsr.config.load import dump_options, load_options, resolve
from basicsr.config.location import NO_LOCATION
from basicsr.config.schema import Options
from basicsr.config.yaml_file import load_yaml, parse_value
from basicsr.errors import OptionError

ROOT = Path(__file__).parents[2]
SEEDS = [
    (ROOT / "options" / name).read_text(encoding="utf-8")
    for name in (
        "train/train_CATANet_S_x2_scratch.yml",
        "train/train_CATANet_x4_finetune.yml",
        "test/test_CATANet_S_x4.yml",
        "train/prune/01_search_XS_x4.yml",
        "train/prune/02_finetune_XS-D_x4.yml",
        "train/sr/101_ATD_light_SRx2_scratch.yml",
        "train/denoising/303_ATD_U_denoising_gray_sigma50.yml",
        "train/jpegcar/401_ATD_U_jpegcar_gray_q10.yml",
        "test/test_demo_Bicubic_x2.yml",
    )
]
MAX_SECONDS = 20  # of CPU time per file
MAX_MESSAGE_CHARS = 2000
MERGES = "b0: &b0 {x: 1}\n" + "\n".join(f"b{k}: &b{k} {{<<: [{', '.join([f'*b{k - 1}'] * 9)}]}}" for k in range(1, 30))
MAX_GROWTH_MB = 1500  # of the memory of the process over all cases


def attempt(number, path):
    """Return "options" or "error" for case `number`, after a check of the error's message."""
    path.write_bytes(option_file(number, SEEDS))
    overrides = [override(number)] if number % 7 == 0 else []
    try:
        options = load_options(path, overrides, is_train=number % 3 > 0)
    except OptionError as error:
        message = str(error)
        head, *lines = message.splitlines() if isinstance(error, OptionFaultsError) else ("", message)
        assert re.fullmatch(r"\d+ faults in the options:|", head), message[:MAX_MESSAGE_CHARS]
        for line in lines[:MAX_FAULTS]:
            assert line.isprintable(), line[:MAX_MESSAGE_CHARS]
            assert len(line) < MAX_MESSAGE_CHARS + len(str(path)), line[:MAX_MESSAGE_CHARS]
            assert str(path) in line or "--force_yml" in line, line
        return "error"
    assert isinstance(options, Options)
    assert dump_options(resolve(options))
    return "options"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("numbers", campaign(200, 10_000))
def test_mutated_option_files(tmp_path, numbers):
    path = tmp_path / "x.yml"
    counts, slowest, failures = Counter(), (0.0, -1), []
    with quiet():
        load_options(
            ROOT / "options/train/sr/101_ATD_light_SRx2_scratch.yml", is_train=True
        )  # imports are no part of the measured time and memory
    before = peak_mb()
    for number in numbers:
        start = time.process_time()
        try:
            with quiet(), bounded(MAX_SECONDS, f"case {number}"):
                counts[attempt(number, path)] += 1
        except Exception as error:  # noqa: BLE001 - collect the failures of all cases
            failures.append(f"case {number}: {type(error).__name__}: {str(error)[:300]}")
        slowest = max(slowest, (time.process_time() - start, number))
    report(
        "option files",
        counts,
        slowest=f"{slowest[0]:.1f} s (case {slowest[1]})",
        memory=f"+{peak_mb() - before:.0f} MB",
    )
    assert not failures, f"{len(failures)} failures:\n" + "\n".join(failures[:400])
    assert min(counts["error"], counts["options"]) > 0.02 * counts.total()
    assert peak_mb() - before < MAX_GROWTH_MB


@pytest.mark.parametrize("number", cases(10, 200))
@pytest.mark.filterwarnings("ignore")
def test_the_commands_report_one_line_and_exit_with_2(tmp_path, capfd, number):
    path = tmp_path / "x.yml"
    path.write_bytes(option_file(number, SEEDS))
    is_train = number % 3 > 0
    try:
        load_options(path, is_train=is_train)
        expected = 0
    except OptionError:
        expected = 2
    capfd.readouterr()
    code = (train_command if is_train else test_command).main(["-opt", str(path), "--check"])
    assert code == expected
    errors = [line for line in capfd.readouterr().err.splitlines() if "CRITICAL" in line or "Traceback" in line]
    assert len(errors) == (1 if expected else 0)
    assert "Traceback" not in "".join(errors)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(scalars, inner), max_leaves=20)


@given(values)
def test_any_value_gives_options_or_an_error(value):
    try:
        convert(value, Options, NO_LOCATION)
    except OptionError as error:
        assert all(line.isprintable() for line in str(error).split("\n"))


@given(st.text() | st.sampled_from(SEEDS).flatmap(lambda text: st.integers(0, len(text)).map(lambda n: text[n:])))
def test_any_text_is_a_value_or_a_yaml_error(text):
    with suppress(yaml.YAMLError):
        parse_value(text)


@given(data=st.binary())
def test_any_bytes_give_a_mapping_or_an_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.yml"
    path.write_bytes(data)
    try:
        values, places = load_yaml(path)
    except OptionError as error:
        assert str(error).startswith(str(path))
    else:
        assert isinstance(values, dict)
        assert all(place.startswith(str(path)) for place in places.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MERGES, "too large"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a: " + "[" * 40 + "]" * 40, "nested too deeply"),
        ("a: " + "x" * 300_000, "is larger than 256 KiB"),
        ("a: !!int ''", "a value does not fit its tag"),
        ("a: !!bool maybe", "a value does not fit its tag"),
        ("a: 0x" + "f" * 400, "a whole number must be between -2^63 and 2^63"),
        ("a: " + "9" * 5000, "a value does not fit its tag"),
        ('a: "b\\0c"', "null character or a lone surrogate"),
        ('a: "\\ud800"', "null character or a lone surrogate"),
        ("a: b\x07", "special characters are not allowed"),
    ],
    ids=range(11),
)
def test_known_attacks(tmp_path, text, message):
    path = tmp_path / "x.yml"
    path.write_text(text, encoding="utf-8")
    with bounded(10, "an attack"), pytest.raises(OptionError, match=re.escape(message)) as error:
        load_yaml(path)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("key", ["7", "yes", "~", "1.5", "2001-01-01"])
def test_keys_that_are_not_text_are_rejected(tmp_path, key):
    path = tmp_path / "x.yml"
    path.write_text(f"{SEEDS[0]}\n{key}: 1\n", encoding="utf-8")
    if key == "2001-01-01":  # dates are read as text
        load_options(path, is_train=True)
    else:
        with pytest.raises(OptionError, match="a key must be text, got"):
            load_options(path, is_train=True)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "network_g={type: CATANet, upscale: 2, dim: 4611686018427387904}",
            "network_g.dim: must be in [1, 65536], got 4611686018427387904",
        ),
        ("train:optim_g={type: Adam, lr: 1e-4, foreach: true, fused: true}", "optim_g: "),
        ("name=\x07\ufeff", "--force_yml name="),
        ("a\nb=1", "--force_yml a"),
    ],
)
def test_earlier_findings(override, message):
    path = ROOT / "options/train/train_CATANet_S_x2_scratch.yml"
    with pytest.raises(OptionError, match=re.escape(message)) as error:
        load_options(path, [override], is_train=True)
    assert str(error.value).isprintable()
