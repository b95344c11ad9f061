"""Options that data sets, models and stages of a run do not all honour: refused, or named in a warning."""

import inspect
import logging
import re
from dataclasses import fields

import pytest
import yaml
from torch.utils.data import Dataset

from basicsr.config.data_checks import template_problem
from basicsr.config.faults import OptionFaultsError
from basicsr.config.load import load_options
from basicsr.config.registry import DATASET_REGISTRY, METRIC_REGISTRY
from basicsr.config.schema import DatasetOptions, ValOptions
from basicsr.config.section import signature_hints
from basicsr.config.stages import NO, REFUSED, STAGES
from basicsr.errors import OptionError

PAIRED = {"type": "PairedImageDataset", "dataroot_gt": "images"}
NOISE = {"type": "Dataset_GaussianDenoising", "dataroot_gt": "images"}
JPEG = {"type": "Dataset_JPEGCAR", "dataroot_gt": "images", "quality_factor": 10}
PHOTO = {"type": "PhotoDataset", "dataroot_gt": "images"}
VGG = {"type": "PerceptualLoss", "layer_weights": {"conv5_4": 1}, "weights": "a"}
HALF = [0.5, 0.5, 0.5]
S = {"type": "CATANet-S", "upscale": 2}
PRUNING = {"model_type": "PruneDistillModel", "network_t": S}
L1 = {"type": "L1Loss"}


def options(train_set=PAIRED, val_set=PAIRED, losses=(), **more):
    optimization = {"total_iter": 2, "optim_g": {"type": "Adam"}, "pixel_opt": L1, **dict(losses)}
    datasets = {"train": train_set.copy(), "val": {"name": "Set5", **val_set}}
    values = {"name": "x", "scale": 2, "num_gpu": 0, "datasets": datasets, "network_g": S, "train": optimization}
    return {**values, **more}


def both(dataset, **more):
    return {"train_set": {**dataset, **more}, "val_set": {**dataset, **more}}


@pytest.fixture
def load(tmp_path):
    def load(is_train=True, **arguments):
        path = tmp_path / "x.yml"
        path.write_text(yaml.safe_dump(options(**arguments)))
        return load_options(path, is_train=is_train)

    return load


GRAY = {"scale": 1, "network_g": {"type": "ATD-U", "in_chans": 1}}
COLOUR = {"scale": 1, "network_g": {"type": "ATD-U"}}
LUMA = {"network_g": {**S, "in_chans": 1}}
PSNR_OF_TEACHER = {"val": {"expect_teacher_psnr": {"Set5": [38, 0.1]}}}
STAGED = {**NOISE, "sigma_range": 25, "gt_size": 16, "iters": [1], "mini_batch_sizes": [1], "gt_sizes": [16]}
NOISE_TEST = {**NOISE, "sigma_test": 25}
REFUSALS = [
    ({"train_set": {**PAIRED, "mean": HALF}}, r"datasets\.val\.mean: is None, but that of datasets\.train is \[0\.5"),
    ({"val_set": {**PAIRED, "mean": HALF}}, r"datasets\.val\.mean: is \[0\.5, .*datasets\.train is None"),
    ({"train_set": {**PAIRED, "std": HALF}, "val_set": {**PAIRED, "std": [0.5, 0.5, 0.4]}}, r"datasets\.val\.std: is "),
    ({"train_set": {**PAIRED, "color": "y"}, **LUMA},
     r"datasets\.val\.color: gives images of 3 channels, but network_g takes 1; set network_g\.in_chans: 3"),
    ({"train_set": {**PAIRED, "color": "y"}}, r"datasets\.train\.color: gives images of 1 channel, but "),
    ({"train_set": {**PAIRED, "mean": [0.5, 0.5]}}, r"datasets\.train: mean: needs one number for each of 3"),
    ({"train_set": JPEG, "val_set": {**JPEG, "in_ch": 3}, **COLOUR},
     r"datasets\.train\.in_ch: gives images of 1 channel, but network_g takes 3"),
    ({"train_set": {**JPEG, "gray": "swapped_luma"}, "val_set": JPEG, **GRAY}, r"datasets\.train\.gray: swapped_luma"),
    ({"train_set": {**JPEG, "in_ch": 3}, "val_set": {**JPEG, "in_ch": 3, "gray": "opencv"}, **COLOUR},
     r"datasets\.val\.gray: is how colours become gray; set in_ch: 1"),
    ({"val_set": {**PAIRED, "phase": "train"}}, r"datasets\.val\.phase: is 'train', but that of .* is 'val'"),
    ({"train_set": {**PAIRED, "scale": 4}}, r"datasets\.train\.scale: is 4, but that of this data set is 2"),
    ({"train_set": {**PAIRED, "seed": 3}}, r"datasets\.train\.seed: follows from manual_seed"),
    ({"train_set": {**PAIRED, "gt_size": 33}}, r"datasets\.train\.gt_size: must be a multiple of scale \(2\), got 33"),
    ({"train_set": {"type": "SingleImageDataset", "dataroot_lq": "a"}}, r"datasets\.train\.type: .*no ground truth"),
    ({"val_set": {**PAIRED, "filename_tmpl": "{}_{}"}}, r"datasets\.val\.filename_tmpl: must contain {} once.*'{}_{}'"),
    ({"val_set": {**PAIRED, "cache": "device"}}, r"datasets\.val\.cache: device is only for training sets"),
    ({"train_set": {**NOISE, "sigma_range": 25, "mini_batch_sizes": [1]}, "val_set": NOISE_TEST, **COLOUR},
     r"datasets\.train\.mini_batch_sizes: is read by ATDUNetModel, not by SRModel; set model_type: ATDUNetModel"),
    ({"train_set": {**PAIRED, "iters": 5}}, r"datasets\.train\.iters: expected a list of whole numbers in \[1, 1e9\]"),
    ({"train_set": {**PAIRED, "iters": [5]}}, r"datasets\.train\.iters: is read by ATDUNetModel, not by SRModel"),
    ({"val": {"metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0, "input_order": "CHW"}}}},
     r"val\.metrics\.psnr\.input_order: must be HWC"),
    ({"val": {"metrics": {"image": {"type": "calculate_psnr", "crop_border": 0}}}},
     r"val\.metrics\.image: is the name of the first column in files of scores; rename the metric"),
    (PSNR_OF_TEACHER, r"val\.expect_teacher_psnr: is read by PruneDistillModel, not by SRModel"),
    ({"val": {"expect_teacher_psnr": {"Set14": [38, 0.1]}}, **PRUNING},
     r"val\.expect_teacher_psnr\.Set14: is the name of no test set; they are Set5"),
    ({"val": {"suffix": "a/b"}}, r"val\.suffix: is part of a file's name"),
    ({"losses": {"pix_opt": L1}}, r"train\.pix_opt: is logged as l_pix, like pixel_opt"),
    ({"losses": {"perceptual_opt": L1, "percep_opt": L1}}, r"train\.percep_opt: is logged as l_percep, like"),
    ({"losses": {"sa_opt": L1}, **PRUNING}, r"train\.sa_opt: is logged as l_sa, like a loss of PruneDistillModel"),
    ({**PRUNING, "compact": {"finetune": {"total_iter": -5}}}, r"compact\.finetune\.total_iter: must be in .*, got -5"),
    ({"kd": {"alpha": 0.3}}, r"kd: is read by PruneDistillModel, not by SRModel"),
    ({"prune": {"search_iter": 5}}, r"prune: is read by PruneDistillModel, not by SRModel"),
    ({**both(PAIRED, mean=HALF), **PRUNING, "kd": {"zoom": {"weight": 0.1}}}, r"kd\.zoom: inverts colours in \[0, 1\]"),
    ({**both(PAIRED, color="y"), **LUMA, "losses": {"perceptual_opt": VGG}},
     r"train\.perceptual_opt: PerceptualLoss takes images of 3 channels"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSALS, ids=[message[:40] for _, message in REFUSALS])
def test_what_cannot_be_honoured_is_refused(load, arguments, message):
    with pytest.raises(OptionError, match=message) as caught:
        load(**arguments)
    assert "\n" not in str(caught.value) and "x.yml:" in str(caught.value)


def places(error):
    """Return the keys that a message of several faults names, sorted."""
    return sorted(line.split(": ")[1] for line in str(error.value).splitlines()[1:])


def test_the_faults_of_all_sections_are_reported_together(load):
    with pytest.raises(OptionFaultsError) as error:
        load(
            train_set={**PAIRED, "gt_size": 33, "seed": 3, "iters": [5]},
            val_set={**PAIRED, "filename_tmpl": "x4", "mean": HALF, "name": "a/b"},
            val={
                "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": -1}},
                "expect_teacher_psnr": {"b": [1, 9]},
            },
            losses={"perceptual_opt": {**VGG, "perceptual_weight": -1}},
            kd={"alpha": 0.3},
            prune={"search_iter": 5},
        )
    assert places(error) == [
        "datasets.train.gt_size", "datasets.train.iters", "datasets.train.seed", "datasets.val.filename_tmpl",
        "datasets.val.mean", "datasets.val.name", "kd", "prune", "train.perceptual_opt.perceptual_weight",
        "val.metrics.psnr.crop_border",
    ]  # fmt: skip


def test_what_a_model_does_not_read_is_reported_together(load):
    with pytest.raises(OptionFaultsError) as error:
        load(kd={"alpha": 0.3}, prune={"search_iter": 5}, **PSNR_OF_TEACHER)
    assert places(error) == ["kd", "prune", "val.expect_teacher_psnr"]


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        ({"scale": 3, "train_set": {**PAIRED, "gt_size": 64, "scale": 2}}, "scale"),  # which of them is wrong?
        ({"network_g": {**S, "in_chans": 0}, **both(PAIRED, color="y")},
         "network_g.in_chans"),
        ({"train_set": {**PAIRED, "color": "y"}}, "datasets.train.color"),
        ({"model_type": "XModel", "kd": {"alpha": 0.3}}, "model_type"),
        ({"model_type": None, "kd": {"alpha": 0.3}}, "model_type"),
        ({"val": {"metrics": 3}}, "val.metrics"),
    ],
)  # fmt: skip
def test_nothing_is_reported_that_follows_from_another_fault(load, arguments, place):
    with pytest.raises(OptionError, match=rf"x\.yml:\d+: {re.escape(place)}: ") as error:
        load(**arguments)
    assert not isinstance(error.value, OptionFaultsError)


@pytest.mark.parametrize(
    "arguments",
    [
        both(PAIRED, mean=HALF, std=HALF),
        {**both(PAIRED, color="y", mean=[0.4]), **LUMA},
        {"train_set": {**PAIRED, "mean": [0, 0, 0], "std": [1, 1, 1]}},  # changes nothing
        {"train_set": {**PAIRED, "phase": "train", "scale": 2}, "val_set": {**PAIRED, "phase": "val", "scale": 2}},
        {"train_set": STAGED, "val_set": NOISE_TEST, **COLOUR, "model_type": "ATDUNetModel"},
        {**PSNR_OF_TEACHER, **PRUNING, "kd": {"alpha": 0.3}},
        {"val": {"metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0, "input_order": "HWC"}}}},
        {**both(PAIRED, mean=HALF), "network_g": {"type": "Bicubic", "upscale": 2}},
    ],
    ids=str,
)
def test_what_is_honoured_is_accepted(load, arguments, caplog):
    load(**arguments)
    assert "no effect" not in caplog.text


GIVEN = {  # a value of each option that has no effect in validation and test, and a data set that has it
    "batch_size_per_gpu": (4, PAIRED), "dataset_enlarge_ratio": (3, PAIRED), "gt_size": (32, PAIRED),
    "use_hflip": (True, PAIRED), "use_rot": (True, PAIRED), "geometric_augs": (True, NOISE_TEST),
    "mini_batch_sizes": ([1], NOISE_TEST), "iters": ([1], NOISE_TEST), "gt_sizes": ([16], NOISE_TEST),
    "sigma_type": ("constant", NOISE_TEST), "sigma_range": (25, NOISE_TEST),
}  # fmt: skip


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("key", [key for key, stages in STAGES["datasets.*"].items() if stages.val == NO])
def test_options_without_effect_are_named(load, caplog, key, is_train):
    value, dataset = GIVEN[key]
    network = COLOUR if dataset is NOISE_TEST else {}
    train_set = {**NOISE, "sigma_range": 25} if network else PAIRED
    with caplog.at_level(logging.WARNING, "basicsr"):
        load(is_train, train_set=train_set, val_set={**dataset, key: value}, **network)
    (message,) = [record.getMessage() for record in caplog.records if "no effect" in record.getMessage()]
    assert message.endswith(f"datasets.val: no effect in this stage: {key} (see docs/options.md)")


def test_a_teachers_score_has_no_effect_in_a_test(load, caplog):
    load(is_train=False, **PSNR_OF_TEACHER)
    assert "val: no effect in this stage: expect_teacher_psnr" in caplog.text


def test_the_table_is_complete():
    """An option that is added must be entered in basicsr/config/stages.py, and one that goes be taken out."""
    own = [make for _, make in DATASET_REGISTRY if make.__module__.startswith("basicsr.")]
    metrics = [make for _, make in METRIC_REGISTRY if make.__module__.startswith("basicsr.")]
    declared = {
        "datasets.*": {f.name for f in fields(DatasetOptions) if not f.metadata["run"]}
        | {key for make in own for key in signature_hints(make).types},
        "val": {f.name for f in fields(ValOptions) if not f.metadata["run"]},
        "val.metrics.*": {"type", "better"}
        | {key for make in metrics for key in inspect.signature(make).parameters if key not in ("img", "img2")},
    }
    assert {path: set(table) for path, table in STAGES.items()} == declared


def test_refusals_of_the_table_are_tested():
    refused = {key for table in STAGES.values() for key, stages in table.items() if REFUSED in stages}
    assert [key for key in refused if not any(rf"\.{key}: " in message for _, message in REFUSALS)] == []


def test_a_plug_in_may_use_the_keys_otherwise(load, monkeypatch, caplog):
    class OwnDataset(Dataset):
        def __init__(self, mean=None, phase="train", gt_size=None, scale=1):
            pass

    OwnDataset.__module__ = "plugin"
    monkeypatch.setitem(DATASET_REGISTRY._items, "OwnDataset", OwnDataset)
    own = {"type": "OwnDataset", "mean": "noise", "scale": 3, "gt_size": 33}
    assert load(train_set=own, val_set=own).input_form.to_plain() == {}
    assert "no effect" not in caplog.text


@pytest.mark.parametrize(
    ("template", "problem"),
    [("{}", ""), ("{}x4", ""), ("LR_{}", ""), ("x4", "must contain"), ("{}_{}", "must contain"),
     ("{0}", "must contain"), ("{", "single brace"), ("{}}", "single brace"), ("LR/{}", "without its folder"),
     ("{:d}", "must contain"), ("{name}", "must contain")],
)  # fmt: skip
def test_templates_of_names(template, problem):
    assert template_problem(template).find(problem) >= 0 and bool(template_problem(template)) == bool(problem)
