"""Reading of option files: errors, overrides, defaults, and the promises to older plug-ins."""

import copy
import functools
import logging
import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch
import yaml

from basicsr.archs import build_network
from basicsr.config.faults import OptionFaultsError
from basicsr.config.load import copy_options_file, dump_options, find_options_file, load_options, resolve
from basicsr.errors import OptionError

ROOT = Path(__file__).parents[2]
GOOD = """\
name: run
model_type: SRModel
scale: 2
datasets:
  train:
    name: T
    type: PairedImageDataset
    dataroot_gt: somewhere
    gt_size: 64
  val:
    name: V
    type: PairedImageDataset
    dataroot_gt: somewhere
network_g: {type: CATANet-S, upscale: 2}
train:
  optim_g: {type: Adam, lr: 2e-4, betas: [0.9, 0.99]}
  scheduler: {type: MultiStepLR, milestones: [3, 5], gamma: 0.5}
  total_iter: 10
  pixel_opt: {type: L1Loss, loss_weight: 1}
val:
  val_freq: 5
  metrics:
    psnr: {type: calculate_psnr, crop_border: 2, test_y_channel: true, better: higher}
"""


@pytest.fixture
def load(tmp_path):
    def load(edit=None, overrides=(), is_train=True):
        values = yaml.safe_load(GOOD)
        values["train"]["optim_g"]["lr"] = 2e-4
        if edit is not None:
            edit(values)
        path = tmp_path / "x.yml"
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        return load_options(path, overrides, is_train=is_train)

    return load


def setting(path, value):
    """An edit that puts `value` at the dotted path; `...` deletes it."""

    def edit(values):
        *parents, key = path.split(".")
        for parent in parents:
            values = values[parent]
        if value is ...:
            del values[key]
        else:
            values[key] = value

    return edit


# An edit of GOOD (dotted path, value), the key that the message names, and further facts in the message.
WRONG = [
    ("name", ..., "name", "missing", "text"),
    ("name", "a/b", "name", "'a/b'"),
    ("scale", "four", "scale", "a whole number", "'four'"),
    ("scale", True, "scale", "a whole number", "True"),
    ("scale", 0, "scale", "in [1, 64]", "0"),
    ("scale", 3, "scale", "3", "network_g.upscale is 2"),
    ("model_typ", "x", "model_typ", "did you mean 'model_type'?"),
    ("model_type", "SRModle", "model_type", "'SRModle'", "did you mean SRModel"),
    ("network_g.type", "CATANET-S", "network_g.type", "'CATANET-S'", "did you mean CATANet-S"),
    ("network_g.upscal", 2, "network_g.upscal", "CATANet-S", "did you mean 'upscale'?"),
    ("network_g.upscale", "2", "network_g.upscale", "a whole number", "'2'"),
    ("network_g.upscale", 5, "network_g", "upscale: ", "1, 2, 3 or 4", "5"),
    ("network_g.upscale", 10**9, "network_g.upscale", "in [1, 64]", "1000000000"),
    ("network_g", "CATANet", "network_g", "{type: <architecture>, ...}", "'CATANet'"),
    ("network_g", {"type": "CATANet", "upscale": 2, "block_nums": 4},
     "network_g.block_nums", "CATANet", "did you mean 'block_num'?"),
    ("network_g", {"type": "CATANet", "upscale": 2, "block_num": 4},
     "network_g", "patch_size: ", "4 groups (block_num)", "got 8"),
    ("network_g", {"type": "CATANet", "upscale": 2, "num_tokens": ["a"] * 8},
     "network_g.num_tokens", "a whole number in [1, 65536] or a list of whole numbers in", "['a'"),
    ("train", ..., "train", "missing", "optim_g, total_iter and a loss"),
    ("train.ema_decya", 0.9, "train.ema_decya", "did you mean 'ema_decay'?"),
    ("train.ema_decay", 1.5, "train.ema_decay", "[0, 1)", "1.5"),
    ("train.total_iter", ..., "train.total_iter", "missing", "a whole number", "optimizer steps"),
    ("train.total_iter", 2.5, "train.total_iter", "a whole number", "2.5"),
    ("train.amp", "fp8", "train.amp", "'bf16' or 'fp16'", "'fp8'"),
    ("train", {"use_fp16": True, "amp": "bf16", "total_iter": 1, "optim_g": {"type": "SGD"}},
     "train.use_fp16", "fp16", "bf16"),
    ("train.use_grad_clip", 0.01, "train.use_grad_clip", "true or false", "0.01"),
    ("train.mixing_augs", True, "train.mixing_augs", "keys and values"),
    ("train.optim_g.type", "Adamm", "train.optim_g.type", "'Adamm'", "did you mean Adam"),
    ("train.optim_g.lrr", 1.0, "train.optim_g.lrr", "Adam", "did you mean 'lr'?"),
    ("train.optim_g.lr", "fast", "train.optim_g.lr", "a number"),
    ("train.optim_g.lr", -1.0, "train.optim_g.lr", "in [0, 1000]", "-1.0"),
    ("train.optim_g.betas", [0.9], "train.optim_g.betas", "2 values", "[0.9]"),
    ("train.scheduler.type", "StepLR", "train.scheduler.type", "'StepLR'", "did you mean"),
    ("train.scheduler.gama", 1, "train.scheduler.gama", "MultiStepLR", "did you mean 'gamma'?"),
    ("train.scheduler.milestones", ..., "train.scheduler.milestones", "missing", "MultiStepLR"),
    ("train.scheduler.milestones", [5, 3], "train.scheduler", "milestones: "),
    ("train.pixel_opt", ..., "train", "loss", "pixel_opt: {type: L1Loss, loss_weight: 1.0}"),
    ("train.pixel_opt.type", "L2Loss", "train.pixel_opt.type", "'L2Loss'", "is MSELoss"),
    ("train.pixel_opt.loss_wieght", 1, "train.pixel_opt.loss_wieght", "L1Loss", "did you mean 'loss_weight'?"),
    ("train.pixel_opt.reduction", "men", "train.pixel_opt.reduction",
     "'mean', 'sum' or 'none'", "did you mean 'mean'?"),
    ("val.metrics.psnr.type", "psnr", "val.metrics.psnr.type", "'psnr'", "calculate_psnr"),
    ("val.metrics.psnr.crop", 2, "val.metrics.psnr.crop", "calculate_psnr", "crop_border"),
    ("val.metrics.psnr.better", "up", "val.metrics.psnr.better", "'higher' or 'lower'", "'up'"),
    ("val.metrics.psnr.crop_border", ..., "val.metrics.psnr.crop_border", "missing", "calculate_psnr"),
    ("datasets.trian", {"type": "PairedImageDataset", "dataroot_gt": "x"}, "datasets.trian", "train, val"),
    ("datasets.train.type", "PairedImage", "datasets.train.type", "'PairedImage'", "did you mean"),
    ("datasets.train.gt_sise", 64, "datasets.train.gt_sise", "did you mean 'gt_size'?"),
    ("datasets.train.gt_size", "64", "datasets.train.gt_size", "a whole number", "'64'"),
    ("datasets.train.dataroot_gt", ..., "datasets.train.dataroot_gt", "missing", "text"),
    ("datasets.train.batch_size_per_gpu", 0, "datasets.train.batch_size_per_gpu", "in [1, 65536]", "0"),
    ("datasets.train.cache", "gpu", "datasets.train.cache", "'memory' or 'device'", "'gpu'"),
    ("datasets.val.cache", "device", "datasets.val.cache", "device", "training sets"),
    ("datasets.train", ..., "datasets", "training set", "train: {type: PairedImageDataset, ...}"),
    ("path", 3, "path", "keys and values", "3"),
    ("logger", {"print_freq": 0}, "logger.print_freq", "in [1, 1e9]", "0"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "key", "facts"),
    [(path, value, key, facts) for path, value, key, *facts in WRONG],
    ids=[f"{path}={value}"[:40] for path, value, *_ in WRONG],
)
def test_a_wrong_option_is_reported_with_file_key_and_suggestion(load, path, value, key, facts):
    with pytest.raises(OptionError) as error:
        load(setting(path, value))
    message = str(error.value)
    assert "\n" not in message
    place, _, problem = message.partition(f": {key}: ")
    assert re.search(r"x\.yml(:\d+)?$", place)
    assert [fact for fact in facts if fact not in problem] == []


def test_an_error_has_the_line_of_the_key(tmp_path):
    path = tmp_path / "x.yml"
    path.write_text(GOOD.replace("total_iter: 10", "total_iter: ten"))
    with pytest.raises(OptionError) as error:
        load_options(path, is_train=True)
    line = 1 + GOOD[: GOOD.index("total_iter")].count("\n")
    assert str(error.value).startswith(f"{path}:{line}: train.total_iter: ")


def test_unknown_keys_without_similar_ones_cause_a_warning(load, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("basicsr"), "handlers", [])  # set by earlier tests
    monkeypatch.setattr(logging.getLogger("basicsr"), "propagate", True)

    def edit(values):
        values["resize_prob"] = [0.2, 0.7]
        values["datasets"]["train"].update(task="SR", use_shuffle=True)

    opt = load(edit)
    assert opt["resize_prob"] == [0.2, 0.7]
    assert opt["datasets"]["train"]["task"] == "SR"
    keys = ["datasets.train.task", "datasets.train.use_shuffle", "resize_prob"]
    assert [record.message.split(": ")[1] for record in caplog.records] == keys
    assert all("unknown option" in record.message for record in caplog.records)


def test_options_are_also_mappings(load):
    opt = load()
    assert opt["train"].get("ema_decay", 0) == 0.0
    assert opt["network_g"]["type"] == "CATANet-S"
    assert opt["train"]["optim_g"]["betas"] == (0.9, 0.99)
    assert opt.get("network_d") is None
    assert "resume_state" not in opt["path"]
    assert opt["path"].get("resume_state") is None
    assert {**opt["network_g"]} == {"type": "CATANet-S", "upscale": 2}
    assert copy.deepcopy(opt) == opt


def test_options_are_frozen(load):
    opt = load()
    with pytest.raises(FrozenInstanceError):
        opt.scale = 3
    with pytest.raises(TypeError):
        opt["scale"] = 3
    with pytest.raises(AttributeError):
        opt["network_g"].pop("type")


def test_numbers_are_converted_to_the_declared_type(load):
    opt = load(overrides=["train:total_iter=2500.0", "train.ema_decay=0", "train:optim_g:lr=1e-3"])
    assert (opt.train.total_iter, type(opt.train.total_iter)) == (2500, int)
    assert (opt.train.ema_decay, type(opt.train.ema_decay)) == (0.0, float)
    assert opt.train.optim_g["lr"] == 1e-3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("scale", "--force_yml scale: expected a:b=value"),
        (
            "train:total_iter=x",
            "--force_yml train:total_iter=x: train.total_iter: expected a whole number in [1, 1e9], got 'x'",
        ),
        ("scale:x=1", "--force_yml scale:x=1: scale is a value, not a section"),
        ("name=[", "--force_yml name=[: the value is not valid YAML"),
        ("train:totl_iter=4", "train.totl_iter: unknown option; did you mean 'total_iter'?"),
    ],
)
def test_wrong_overrides_are_reported(load, override, message):
    with pytest.raises(OptionError) as error:
        load(overrides=[override])
    assert message in str(error.value)


def test_overrides_run_no_code_and_may_contain_an_equals_sign(load):
    opt = load(overrides=["name=a=b", "path:pretrain_network_g=__import__('os').getcwd()"])
    assert opt.name == "a=b"
    assert opt.path.pretrain_network_g == "__import__('os').getcwd()"


def test_resolve_adds_rank_and_folders(load):
    opt = resolve(load(), rank=1, world_size=2)
    assert (opt["rank"], opt["world_size"], opt["dist"], opt["is_train"]) == (1, 2, True, True)
    assert opt["path"]["models"] == "experiments/run/models"
    debug = resolve(load(), debug=True)
    assert (debug.name, debug.val.val_freq, debug.logger.print_freq) == ("debug_run", 8, 1)


def test_data_sets_of_plugins_that_take_opt_get_all_keys_unchecked(load):
    from basicsr.config.registry import DATASET_REGISTRY

    class OldDataset:
        def __init__(self, opt):
            self.opt = opt

    DATASET_REGISTRY.register(OldDataset)
    try:
        opt = load(setting("datasets.train", {"type": "OldDataset", "gt_sise": 3, "blur": {"sigma": 1}}))
    finally:
        DATASET_REGISTRY._items.pop("OldDataset")
    assert opt.datasets["train"]["blur"] == {"sigma": 1}


@functools.cache  # train and test files name the same networks
def output_shape(network_g, channels):
    """Return the shape of the output of `network_g` (YAML text) for an image of 12 x 14 pixels."""
    with torch.device("meta"), torch.inference_mode():
        return build_network(yaml.safe_load(network_g)).eval()(torch.rand(1, channels, 12, 14)).shape


@pytest.mark.parametrize("path", sorted(ROOT.glob("options/**/*.yml")), ids=lambda p: "-".join(p.parts[-3:]))
def test_every_option_file_loads_and_its_networks_build(path):
    opt = load_options(path, is_train="train" in path.relative_to(ROOT / "options").parts)
    assert opt.name in (path.stem, path.stem.removeprefix("train_"), re.sub(r"^\d\d_", "", path.stem))
    spec = {k: value for k, value in opt.to_dict()["network_g"].items() if k not in ("use_checkpoint", "img_size")}
    shape = (1, spec.get("in_chans", 3), 12 * opt.scale, 14 * opt.scale)
    assert output_shape(yaml.safe_dump(spec), shape[1]) == shape


def test_numbered_files_have_the_name_of_their_run():
    found = sorted(ROOT.glob("options/*/*/[0-9][0-9][0-9]_*.yml"))
    assert len(found) == 33
    assert [yaml.safe_load(path.read_text())["name"] for path in found] == [path.stem for path in found]


class TestOptionsOfPublishedFiles:
    @pytest.mark.parametrize(
        ("train", "precision", "norm"),
        [
            ({}, None, None),
            ({"amp": "fp16"}, "fp16", None),
            ({"amp": "bf16", "grad_clip": 0.5}, "bf16", 0.5),
            ({"use_fp16": True, "use_grad_clip": True}, "fp16", 0.01),
            ({"use_fp16": True, "amp": "fp16", "use_grad_clip": True, "grad_clip": 2}, "fp16", 2.0),
        ],
    )
    def test_precision_and_clipping(self, load, train, precision, norm):
        opt = load(lambda values: values["train"].update(train))
        assert (opt.train.mixed_precision, opt.train.max_grad_norm) == (precision, norm)

    @pytest.mark.parametrize(
        ("path", "key"),
        [
            ({}, "params"),
            ({"param_key": "params_ema"}, "params_ema"),
            ({"param_key_g": "params"}, "params"),
            ({"param_key": "params_ema", "param_key_g": "params"}, "params"),
            ({"param_key": "params", "param_key_g": "params_ema"}, "params_ema"),
        ],
    )
    def test_param_key_is_an_older_name_of_param_key_g(self, load, path, key):
        assert load(setting("path", path)).path.param_key_g == key

    def test_mixup_is_accepted_with_a_warning(self, load, caplog, monkeypatch):
        monkeypatch.setattr(logging.getLogger("basicsr"), "handlers", [])  # set by earlier tests
        monkeypatch.setattr(logging.getLogger("basicsr"), "propagate", True)
        opt = load(setting("train.mixing_augs", {"mixup": True, "mixup_beta": 1.2, "use_identity": True}))
        assert opt.train.mixing_augs["mixup_beta"] == 1.2
        (record,) = caplog.records
        assert ": train.mixing_augs: MixUp is not applied" in record.message
        caplog.clear()
        load(setting("train.mixing_augs", {}))
        assert not caplog.records


class TestFindingTheFile:
    @pytest.fixture
    def folder(self, tmp_path):
        for name in ("a/001_x.yml", "a/b/002_x.yml", "c/002_x.yml", "a/b/c/003_x.yml", "004_x.yml"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(GOOD)
        return tmp_path

    def test_a_file_in_a_subfolder_is_used_with_a_warning(self, folder, caplog, monkeypatch):
        monkeypatch.setattr(logging.getLogger("basicsr"), "handlers", [])  # set by earlier tests
        monkeypatch.setattr(logging.getLogger("basicsr"), "propagate", True)
        opt = load_options(folder / "001_x.yml", is_train=True)
        assert opt.source == str(folder / "a" / "001_x.yml")
        (record,) = caplog.records
        assert record.message.startswith(f"{folder / '001_x.yml'}: ")
        assert record.message.endswith(str(folder / "a" / "001_x.yml"))

    def test_an_existing_file_is_used(self, folder, caplog):
        (folder / "a" / "004_x.yml").write_text(GOOD)
        assert find_options_file(folder / "004_x.yml") == folder / "004_x.yml"

    def test_several_files_of_that_name_are_listed(self, folder):
        with pytest.raises(OptionError) as error:
            find_options_file(folder / "002_x.yml")
        first, second = folder / "a" / "b" / "002_x.yml", folder / "c" / "002_x.yml"
        assert str(error.value).startswith(f"{folder / '002_x.yml'}: no such file")
        assert f"{first}, {second}?" in str(error.value)

    def test_similar_names_are_suggested(self, folder):
        with pytest.raises(OptionError, match=r"005_x\.yml: no such file; did you mean .*004_x\.yml"):
            find_options_file(folder / "005_x.yml")

    @pytest.mark.parametrize("name", ["quite_another.yml", "missing/001_x.yml"])
    def test_without_similar_names_the_file_cannot_be_read(self, folder, name):
        with pytest.raises(OptionError, match=r"cannot be read \(No such file or directory\)"):
            load_options(folder / name, is_train=True)

    @pytest.mark.parametrize("kind", ["train", "test"])
    def test_numbered_option_files_are_found_without_their_folder(self, kind):
        for path in ROOT.glob(f"options/{kind}/*/[0-9][0-9][0-9]_*.yml"):
            assert find_options_file(ROOT / "options" / kind / path.name) == path


def test_dumped_options_load_again(load, tmp_path):
    opt = load()
    dumped = tmp_path / "dumped.yml"
    dumped.write_text(dump_options(opt))
    assert {**load_options(dumped, is_train=True).to_dict(), "source": None} == {**opt.to_dict(), "source": None}


def test_the_copied_file_keeps_its_comments(tmp_path):
    source = tmp_path / "a.yml"
    source.write_text("name: x  # a comment\n")
    (tmp_path / "run").mkdir()
    copy_options_file(source, tmp_path / "run")
    text = (tmp_path / "run" / "a.yml").read_text()
    assert text.startswith("# GENERATE TIME: ")
    assert text.endswith("name: x  # a comment\n")


def test_the_copy_of_a_file_with_a_byte_order_mark_is_usable(tmp_path, monkeypatch):
    from basicsr.config.load import copy_options_file
    from basicsr.config.yaml_file import load_yaml

    monkeypatch.setattr("sys.argv", ["train.py", "-opt", "a\nb: 1"])
    (tmp_path / "x.yml").write_bytes(b"\xef\xbb\xbfname: \xc3\xa9\r\n")
    (tmp_path / "copy").mkdir()
    copy_options_file(tmp_path / "x.yml", tmp_path / "copy")
    assert load_yaml(tmp_path / "copy/x.yml")[0] == {"name": "é"}


def test_a_template_in_force_yml_is_told_to_need_quotes():
    from basicsr.config.load import _apply_override

    with pytest.raises(OptionError, match=r"""put quotes around .*--force_yml "a:b='...'\""""):
        _apply_override({}, {}, "a:b={}x2", {})
    values = {}
    _apply_override(values, {}, "a:b='{}x2'", {})
    assert values == {"a": {"b": "{}x2"}}


class TestSeveralFaults:
    """All faults of a file are reported at once, the most telling first, without what follows from another one."""

    @pytest.fixture
    def places(self, load):
        def places(edit):
            with pytest.raises(OptionFaultsError) as error:
                load(edit)
            head, *lines = str(error.value).splitlines()
            assert head == f"{len(error.value.faults)} faults in the options:"
            return [re.match(r"  .*x\.yml(?::\d+)?: ([\w.\[\]]+): ", line)[1] for line in lines]

        return places

    def test_names_of_components_come_first_then_the_order_of_the_file(self, places):
        def edit(values):
            values["val"]["metrics"]["psnr"]["type"] = "calculate_lpips"
            values["datasets"]["train"]["gt_size"] = "x"
            values["datasets"]["val"]["type"] = "REDSDataset"
            values["network_g"] = {"type": "HAT", "window_size": 16}
            values["model_type"] = "HATModel"
            values["train"]["optim_g"]["lr"] = "fast"

        assert places(edit) == [
            "model_type", "datasets.val.type", "network_g.type", "val.metrics.psnr.type", "datasets.train.gt_size",
            "train.optim_g.lr",
        ]  # fmt: skip

    def test_a_misspelt_key_is_not_missing_as_well(self, places):
        def edit(values):
            values["train"]["totl_iter"] = values["train"].pop("total_iter")
            values["val"]["metrics"]["psnr"]["crop_bordr"] = values["val"]["metrics"]["psnr"].pop("crop_border")

        assert places(edit) == ["train.totl_iter", "val.metrics.psnr.crop_bordr"]

    def test_what_follows_from_another_fault_is_left_out(self, places):
        def edit(values):
            values["network_g"]["upscale"] = "3"  # so that it is no contradiction of scale
            values["datasets"]["trian"] = values["datasets"].pop("train")
            values["train"]["pixel_opt"]["type"] = "L3"  # so that there is a loss, though an unknown one

        assert places(edit) == ["train.pixel_opt.type", "datasets.trian", "network_g.upscale"]

    def test_constructors_and_whole_sections_are_checked_too(self, places):
        def edit(values):
            values["name"] = "a/b"
            values["network_g"]["upscale"] = 7
            values["train"].update(use_fp16=True, amp="bf16")
            values["val"]["metrics"]["psnr"]["better"] = "up"
            values["train"]["scheduler"]["milestones"] = [5, "x", "y"]

        assert places(edit) == [
            "name", "network_g", "train.scheduler.milestones[1]", "train.scheduler.milestones[2]", "train.use_fp16",
            "val.metrics.psnr.better",
        ]  # fmt: skip

    def test_a_message_has_limits(self, load):
        with pytest.raises(OptionFaultsError) as error:
            load(setting("train.scheduler.milestones", ["x" * 400] * 500))
        assert len(str(error.value)) < 15_000
        assert str(error.value).splitlines()[-1] == "  and 480 more"

    def test_overrides_are_reported_together(self, load):
        with pytest.raises(OptionFaultsError, match="2 faults"):
            load(overrides=["scale", "name=["])


class TestNamesOfTestSets:
    """Scores and pictures are kept by the names of test sets, so two sets must not have one name."""

    @pytest.mark.parametrize(
        ("first", "second"),
        [("Set5", "Set5"), ("Set5", "set5"), ("Set 5", "Set_5"), ("Set5", "Set5."), (None, "val_1")],
    )
    def test_names_that_may_be_one_file_are_refused(self, first, second, load):
        def edit(values):
            section = values["datasets"].pop("val")
            values["datasets"] |= {"val_1": {**section, "name": first or ""}, "test_2": {**section, "name": second}}

        with pytest.raises(OptionError, match=r"x\.yml:\d+: datasets\.\w+\.name: is .*overwrite.*name of its own"):
            load(edit)

    def test_two_test_sets_of_a_test_run(self, load):
        def edit(values):
            del values["datasets"]["train"]
            values["datasets"]["test_2"] = dict(values["datasets"]["val"])

        with pytest.raises(OptionError, match=r"datasets\.val\.name: is 'V', and datasets\.test_2 has the same name"):
            load(edit, is_train=False)

    @pytest.mark.parametrize("name", ["a/b", "..", "../x", "a\\b"])
    def test_a_name_stays_in_the_folder_of_results(self, name, load):
        with pytest.raises(OptionError, match=r"datasets\.val\.name: must be usable as the name of a folder"):
            load(lambda values: values["datasets"]["val"].update(name=name))

    def test_different_names_and_the_name_of_the_training_set_are_free(self, load):
        def edit(values):
            values["datasets"]["val_2"] = {**values["datasets"]["val"], "name": "T"}

        assert load(edit).datasets["val_2"].name == "T"


class TestOverridesTwice:
    @pytest.mark.parametrize(
        "overrides",
        [("scale=2", "scale=3"), ("train:total_iter=3", "train.total_iter=4"), ("train:ema_decay=0.9", "train={}")],
    )
    def test_an_override_that_would_replace_another_is_refused(self, overrides, load):
        with pytest.raises(OptionError) as error:
            load(overrides=overrides)
        assert f"--force_yml {overrides[1]}"[:15] in str(error.value)
        assert f"would replace --force_yml {overrides[0]} of the same command" in str(error.value)

    def test_a_part_after_the_whole_and_the_same_twice_are_allowed(self, load):
        whole = "val:metrics={psnr: {type: calculate_psnr}}"
        options = load(overrides=[whole, "val:metrics:psnr:crop_border=3", "manual_seed=4", "manual_seed=4"])
        assert options.val.metrics["psnr"]["crop_border"] == 3 and options.manual_seed == 4

    def test_the_flag_may_be_repeated(self):
        from basicsr.config.command_line import parse_command_line

        flags = ["-opt", "x.yml", "--force_yml", "a=1", "b=2", "--force_yml", "c=3"]
        assert parse_command_line("prog", "", flags).force_yml == ["a=1", "b=2", "c=3"]
        assert parse_command_line("prog", "", flags[:2]).force_yml == []
