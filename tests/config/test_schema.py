"""Option files: what is refused, in which words, and what old plug-ins may rely on."""

import copy
import dataclasses
import functools
import logging
import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch
import yaml

from basicsr.archs import build_network
from basicsr.config.load import copy_options_file, dump_options, find_options_file, load_options, resolve
from basicsr.config.schema import Options
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


WRONG = [
    ("name", ..., "name: is missing; expected text. name of the run and of its folders"),
    ("name", "a/b", "name: must be usable as the name of a folder, got 'a/b'"),
    ("scale", "four", "scale: expected a whole number, got 'four'"),
    ("scale", True, "scale: expected a whole number, got True"),
    ("scale", 0, "scale: must be at least 1, got 0"),
    ("scale", 3, "scale: is 3, but network_g.upscale is 2; make them equal"),
    ("model_typ", "x", "model_typ: unknown option; did you mean 'model_type'?"),
    ("model_type", "SRModle", "model_type: no model is called 'SRModle'; did you mean SRModel"),
    ("network_g.type", "CATANET-S", "network_g.type: no architecture is called 'CATANET-S'; did you mean CATANet-S"),
    ("network_g.upscal", 2, "network_g.upscal: CATANet-S has no such argument; did you mean 'upscale'?"),
    ("network_g.upscale", "2", "network_g.upscale: expected a whole number, got '2'"),
    ("network_g.upscale", 5, "network_g: upscale: must be 1, 2, 3 or 4, got 5"),
    ("network_g", "CATANet", "network_g: expected {type: name of a architecture, ...}, got 'CATANet'"),
    ("network_g", {"type": "CATANet", "upscale": 2, "block_nums": 4},
     "network_g.block_nums: CATANet has no such argument; did you mean 'block_num'?"),
    ("network_g", {"type": "CATANet", "upscale": 2, "block_num": 4},
     "network_g: patch_size: needs one value for each of the 4 groups (block_num), got 8"),
    ("network_g", {"type": "CATANet", "upscale": 2, "num_tokens": ["a"] * 8},
     "network_g.num_tokens: expected a whole number or a list, each a whole number, got ['a'"),
    ("train", ..., "train: is missing; a training run needs optim_g, total_iter and a loss"),
    ("train.ema_decya", 0.9, "train.ema_decya: unknown option; did you mean 'ema_decay'?"),
    ("train.ema_decay", 1.5, "train.ema_decay: must be in [0, 1), got 1.5; 0 turns EMA off"),
    ("train.total_iter", ..., "train.total_iter: is missing; expected a whole number. optimizer steps"),
    ("train.total_iter", 2.5, "train.total_iter: expected a whole number, got 2.5"),
    ("train.amp", "fp8", "train.amp: expected 'bf16' or 'fp16', got 'fp8'"),
    ("train", {"use_fp16": True, "amp": "bf16", "total_iter": 1, "optim_g": {"type": "SGD"}},
     "train.use_fp16: means amp: fp16, but amp is bf16; keep one of them"),
    ("train.use_grad_clip", 0.01, "train.use_grad_clip: expected true or false, got 0.01"),
    ("train.mixing_augs", True, "train.mixing_augs: expected keys and values"),
    ("train.optim_g.type", "Adamm", "train.optim_g.type: no optimizer is called 'Adamm'; did you mean Adam"),
    ("train.optim_g.lrr", 1.0, "train.optim_g.lrr: Adam has no such argument; did you mean 'lr'?"),
    ("train.optim_g.lr", "fast", "train.optim_g.lr: expected a number"),
    ("train.optim_g.lr", -1.0, "train.optim_g: Invalid learning rate: -1.0"),
    ("train.optim_g.betas", [0.9], "train.optim_g.betas: expected 2 values, got 1: [0.9]"),
    ("train.scheduler.type", "StepLR", "train.scheduler.type: no learning-rate scheduler is called 'StepLR'; did"),
    ("train.scheduler.gama", 1, "train.scheduler.gama: MultiStepLR has no such argument; did you mean 'gamma'?"),
    ("train.scheduler.milestones", ..., "train.scheduler.milestones: is missing; MultiStepLR needs it"),
    ("train.scheduler.milestones", [5, 3], "train.scheduler: milestones: "),
    ("train.pixel_opt", ..., "train: has no loss; add e.g. `pixel_opt: {type: L1Loss, loss_weight: 1.0}`"),
    ("train.pixel_opt.type", "L2Loss", "train.pixel_opt.type: no loss is called 'L2Loss'; did you mean"),
    ("train.pixel_opt.loss_wieght", 1,
     "train.pixel_opt.loss_wieght: L1Loss has no such argument; did you mean 'loss_weight'?"),
    ("train.pixel_opt.reduction", "men", "train.pixel_opt.reduction: expected 'mean' or 'sum'"),
    ("val.metrics.psnr.type", "psnr", "val.metrics.psnr.type: no metric is called 'psnr'; known: calculate_psnr"),
    ("val.metrics.psnr.crop", 2, "val.metrics.psnr.crop: calculate_psnr has no such argument; it takes crop_border"),
    ("val.metrics.psnr.better", "up", "val.metrics.psnr.better: expected 'higher' or 'lower', got 'up'"),
    ("val.metrics.psnr.crop_border", ..., "val.metrics.psnr.crop_border: is missing; calculate_psnr needs it"),
    ("datasets.trian", {}, "datasets.trian"),
    ("datasets.train.type", "PairedImage", "datasets.train.type: no data set is called 'PairedImage'; did you mean"),
    ("datasets.train.gt_sise", 64, "datasets.train.gt_sise: unknown option; did you mean 'gt_size'?"),
    ("datasets.train.gt_size", "64", "datasets.train.gt_size: expected a whole number, got '64'"),
    ("datasets.train.dataroot_gt", ..., "datasets.train.dataroot_gt: is missing; expected text"),
    ("datasets.train.batch_size_per_gpu", 0, "datasets.train.batch_size_per_gpu: must be at least 1, got 0"),
    ("datasets.train.cache", "gpu", "datasets.train.cache: expected 'memory' or 'device', got 'gpu'"),
    ("datasets.val.cache", "device", "datasets.val.cache: device is for training sets"),
    ("datasets.train", ..., "datasets: has no `train` entry to train on"),
    ("path", 3, "path: expected keys and values, got 3"),
    ("logger", {"print_freq": 0}, "logger.print_freq: must be at least 1, got 0"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "message"), WRONG, ids=[f"{p}={v}"[:40] for p, v, _ in WRONG])
def test_a_wrong_option_ends_in_one_message_with_its_place(load, path, value, message):
    with pytest.raises(OptionError) as error:
        load(setting(path, value))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).split(":")[0].endswith("x.yml")


def test_the_line_is_that_of_the_key(tmp_path):
    path = tmp_path / "x.yml"
    path.write_text(GOOD.replace("total_iter: 10", "total_iter: ten"))
    with pytest.raises(OptionError) as error:
        load_options(path, is_train=True)
    line = 1 + GOOD[: GOOD.index("total_iter")].count("\n")
    assert str(error.value) == f"{path}:{line}: train.total_iter: expected a whole number, got 'ten'"


def test_keys_like_nothing_known_pass_with_a_warning(load, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("basicsr"), "handlers", [])  # a command run before leaves its own
    monkeypatch.setattr(logging.getLogger("basicsr"), "propagate", True)

    def edit(values):
        values["resize_prob"] = [0.2, 0.7]
        values["datasets"]["train"].update(task="SR", use_shuffle=True)

    opt = load(edit)
    assert opt["resize_prob"] == [0.2, 0.7]
    assert opt["datasets"]["train"]["task"] == "SR"
    assert [r.message.split(": ", 1)[1] for r in caplog.records] == [
        f"{key}: unknown option, kept for plug-ins but read by nothing here"
        for key in ("datasets.train.task", "datasets.train.use_shuffle", "resize_prob")
    ]


def test_options_read_as_the_mappings_of_old(load):
    opt = load()
    assert opt["train"].get("ema_decay", 0) == 0.0
    assert opt["network_g"]["type"] == "CATANet-S"
    assert opt["train"]["optim_g"]["betas"] == (0.9, 0.99)
    assert opt.get("network_d") is None
    assert "resume_state" not in opt["path"]
    assert opt["path"].get("resume_state") is None
    assert {**opt["network_g"]} == {"type": "CATANet-S", "upscale": 2}
    assert copy.deepcopy(opt) == opt


def test_options_cannot_be_written(load):
    opt = load()
    with pytest.raises(FrozenInstanceError):
        opt.scale = 3
    with pytest.raises(TypeError):
        opt["scale"] = 3
    with pytest.raises(AttributeError):
        opt["network_g"].pop("type")


def test_numbers_become_what_is_due(load):
    opt = load(overrides=["train:total_iter=2500.0", "train.ema_decay=0", "train:optim_g:lr=1e-3"])
    assert (opt.train.total_iter, type(opt.train.total_iter)) == (2500, int)
    assert (opt.train.ema_decay, type(opt.train.ema_decay)) == (0.0, float)
    assert opt.train.optim_g["lr"] == 1e-3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("scale", "--force_yml scale: expected a:b=value"),
        ("train:total_iter=x", "--force_yml train:total_iter=x: train.total_iter: expected a whole number, got 'x'"),
        ("scale:x=1", "--force_yml scale:x=1: scale is a value, not a section"),
        ("name=[", "--force_yml name=[: the value is no valid YAML"),
        ("train:totl_iter=4", "train.totl_iter: unknown option; did you mean 'total_iter'?"),
    ],
)
def test_bad_overrides(load, override, message):
    with pytest.raises(OptionError) as error:
        load(overrides=[override])
    assert message in str(error.value)


def test_overrides_run_no_code_and_may_hold_an_equals_sign(load):
    opt = load(overrides=["name=a=b", "path:pretrain_network_g=__import__('os').getcwd()"])
    assert opt.name == "a=b"
    assert opt.path.pretrain_network_g == "__import__('os').getcwd()"


def test_the_run_adds_its_place_and_folders(load):
    opt = resolve(load(), rank=1, world_size=2)
    assert (opt["rank"], opt["world_size"], opt["dist"], opt["is_train"]) == (1, 2, True, True)
    assert opt["path"]["models"] == "experiments/run/models"
    debug = resolve(load(), debug=True)
    assert (debug.name, debug.val.val_freq, debug.logger.print_freq) == ("debug_run", 8, 1)


def test_old_plugins_that_take_one_opt_get_every_key_unchecked(load):
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
    """Of the network that the text `network_g` describes, for a picture of 12 x 14 pixels."""
    with torch.device("meta"), torch.inference_mode():
        return build_network(yaml.safe_load(network_g)).eval()(torch.rand(1, channels, 12, 14)).shape


@pytest.mark.parametrize("path", sorted(ROOT.glob("options/**/*.yml")), ids=lambda p: "-".join(p.parts[-3:]))
def test_every_option_file_loads_and_its_networks_build(path):
    opt = load_options(path, is_train="train" in path.relative_to(ROOT / "options").parts)
    assert opt.name in (path.stem, path.stem.removeprefix("train_"), re.sub(r"^\d\d_", "", path.stem))
    spec = {k: value for k, value in opt.to_dict()["network_g"].items() if k not in ("use_checkpoint", "img_size")}
    shape = (1, spec.get("in_chans", 3), 12 * opt.scale, 14 * opt.scale)
    assert output_shape(yaml.safe_dump(spec), shape[1]) == shape


def test_numbered_files_are_named_like_their_runs():
    found = sorted(ROOT.glob("options/*/*/[0-9][0-9][0-9]_*.yml"))
    assert len(found) == 33
    assert [yaml.safe_load(path.read_text())["name"] for path in found] == [path.stem for path in found]


class TestPublishedWords:
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
    def test_the_key_of_the_weights_has_two_names(self, load, path, key):
        assert load(setting("path", path)).path.param_key_g == key

    def test_mixup_is_accepted_and_one_line_says_that_it_is_not_run(self, load, caplog, monkeypatch):
        monkeypatch.setattr(logging.getLogger("basicsr"), "handlers", [])  # a command run before leaves its own
        monkeypatch.setattr(logging.getLogger("basicsr"), "propagate", True)
        opt = load(setting("train.mixing_augs", {"mixup": True, "mixup_beta": 1.2, "use_identity": True}))
        assert opt.train.mixing_augs["mixup_beta"] == 1.2
        (record,) = caplog.records
        assert record.message.endswith("train.mixing_augs: not run, as in the code these options are from")
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

    def test_in_a_folder_below_with_a_warning(self, folder, caplog, monkeypatch):
        monkeypatch.setattr(logging.getLogger("basicsr"), "handlers", [])  # a command run before leaves its own
        monkeypatch.setattr(logging.getLogger("basicsr"), "propagate", True)
        opt = load_options(folder / "001_x.yml", is_train=True)
        assert opt.source == str(folder / "a" / "001_x.yml")
        (record,) = caplog.records
        assert record.message == f"{folder / '001_x.yml'}: no such file; taking {folder / 'a' / '001_x.yml'}"

    def test_one_that_is_there_is_taken(self, folder, caplog):
        (folder / "a" / "004_x.yml").write_text(GOOD)
        assert find_options_file(folder / "004_x.yml") == folder / "004_x.yml"

    def test_several_are_listed(self, folder):
        with pytest.raises(OptionError) as error:
            find_options_file(folder / "002_x.yml")
        first, second = folder / "a" / "b" / "002_x.yml", folder / "c" / "002_x.yml"
        assert str(error.value) == f"{folder / '002_x.yml'}: no such file; did you mean one of {first}, {second}?"

    def test_else_the_nearest_names(self, folder):
        with pytest.raises(OptionError, match=r"005_x\.yml: no such file; did you mean .*004_x\.yml"):
            find_options_file(folder / "005_x.yml")

    @pytest.mark.parametrize("name", ["quite_another.yml", "missing/001_x.yml"])
    def test_else_it_cannot_be_read(self, folder, name):
        with pytest.raises(OptionError, match=r"cannot be read \(No such file or directory\)"):
            load_options(folder / name, is_train=True)

    @pytest.mark.parametrize("kind", ["train", "test"])
    def test_numbered_files_are_found_without_their_folder(self, kind):
        for path in ROOT.glob(f"options/{kind}/*/[0-9][0-9][0-9]_*.yml"):
            assert find_options_file(ROOT / "options" / kind / path.name) == path


def test_options_dump_and_load_again(load, tmp_path):
    opt = load()
    again = tmp_path / "again.yml"
    again.write_text(dump_options(opt))
    assert {**load_options(again, is_train=True).to_dict(), "source": None} == {**opt.to_dict(), "source": None}


def test_the_copied_file_keeps_its_comments(tmp_path):
    source = tmp_path / "a.yml"
    source.write_text("name: x  # why\n")
    (tmp_path / "run").mkdir()
    copy_options_file(source, tmp_path / "run")
    text = (tmp_path / "run" / "a.yml").read_text()
    assert text.startswith("# GENERATE TIME: ")
    assert text.endswith("name: x  # why\n")


def test_every_option_is_documented():
    from basicsr.config import schema as options

    sections = [s for s in vars(options).values() if isinstance(s, type) and issubclass(s, options.Section)]
    assert Options in sections
    fields = [(s, f) for s in sections for f in dataclasses.fields(s)]
    assert [f"{s.__name__}.{f.name}" for s, f in fields if not f.metadata["doc"]] == []
