"""What a YAML file may say: the typed, frozen options of a run. `docs/options.md` is generated from this file.

    load_yaml -> overrides of --force_yml -> structure (types, names, signatures) -> resolve (what the run adds)

Options are input. Nothing writes to them; what a run decides (rank, folders) is set once, by `resolve`.
"""

import functools
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml

from basicsr.config.pruning import BudgetOptions, CompactOptions, DistillOptions, PruneOptions
from basicsr.config.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
    OPTIMIZER_REGISTRY,
    SCHEDULER_REGISTRY,
)
from basicsr.config.section import (
    Component,
    Hints,
    Section,
    Spec,
    Where,
    at_least,
    option,
    printable,
    signature_hints,
    structure,
)
from basicsr.config.yaml_file import MAX_DEPTH, Path_, load_yaml, parse_value
from basicsr.errors import OptionError, UnknownNameError

NetworkSpec = Annotated[Spec, Component(ARCH_REGISTRY)]
LossSpec = Annotated[Spec, Component(LOSS_REGISTRY)]
MetricSpec = Annotated[Spec, Component(METRIC_REGISTRY, ("img", "img2"), {"better": Literal["higher", "lower"]})]
OptimizerSpec = Annotated[Spec, Component(OPTIMIZER_REGISTRY, ("params",))]
SchedulerSpec = Annotated[Spec, Component(SCHEDULER_REGISTRY)]

MatmulPrecision = Literal["highest", "high", "medium"]

PUBLISHED_GRAD_CLIP = 0.01  # what `use_grad_clip` stands for

logger = logging.getLogger("basicsr")


@dataclass(frozen=True, kw_only=True)
class DatasetOptions(Section):
    """One data set and how it is read. The keys of the data set itself are the arguments of its class."""

    name: str = option("", "used in logs, tables and folder names")
    type: str = option(doc="class of the data set, e.g. PairedImageDataset")
    batch_size_per_gpu: int = option(1, "samples a process (GPU) takes for one step")
    num_worker_per_gpu: int = option(0, "loader processes of each process; 0: load in the process itself")
    dataset_enlarge_ratio: int = option(1, "times the data set is seen in one epoch, each time cropped anew")
    prefetch_mode: Literal["cpu", "cuda"] | None = option(None, "accepted for old files; batches are always prefetched")
    num_prefetch_queue: int = option(2, "batches that each loader process prepares in advance")
    pin_memory: bool | None = option(
        None, "page-locked training batches, for a copy to a GPU that nothing waits for; null: on CUDA"
    )
    persistent_workers: bool = option(True, "keep loader processes between epochs")
    cache: Literal["memory", "device"] = option(
        "memory",
        "of a training set of PairedImageDataset: device keeps all its images on the device that trains and cuts its "
        "batches there, the same ones, without loader processes; where they do not fit, the log says so and it is "
        "memory, up to cache_mb",
    )

    SUPPLIED: ClassVar = ("scale", "phase", "seed")

    def __post_init__(self) -> None:
        at_least(1, self, "batch_size_per_gpu", "dataset_enlarge_ratio", "num_prefetch_queue")
        at_least(0, self, "num_worker_per_gpu")

    @classmethod
    def more_hints(cls, data: Mapping[str, Any], where: Where) -> Hints | None:
        """The constructor's arguments of the class named by `type`; None for an old plug-in that takes one `opt`."""
        if not isinstance(data.get("type"), str):
            return Hints({})
        try:
            hints = signature_hints(DATASET_REGISTRY.get(data["type"]), cls.SUPPLIED)
        except UnknownNameError as error:
            raise (where / "type").error(str(error)) from error
        return None if set(hints.types) == {"opt"} else hints

    @property
    def spec(self) -> Spec:
        """What describes the data set itself: its type and its constructor's arguments."""
        return Spec({"type": self.type, **self.extra}, self.where)


@dataclass(frozen=True, kw_only=True)
class PathOptions(Section):
    """Files to start from and folders to write to. Relative paths start at the current folder."""

    pretrain_network_g: str | None = option(None, "weights that `network_g` starts from, or is tested with")
    param_key_g: str | None = option(
        "params", "entry of the weight file: params or params_ema; null: the file is the dict"
    )
    param_key: str | None = option(None, "another name of param_key_g, for old ATD-U files; param_key_g wins")
    pretrain_network_t: str | None = option(None, "weights of the teacher `network_t`")
    param_key_t: str | None = option("params", "entry of that weight file")
    strict_load_g: bool = option(True, "every name and shape must fit; false: load what fits and say what does not")
    resume_state: str | None = option(None, "a `.state` file to continue from")
    ignore_resume_networks: list[str] | None = option(None, "networks that a resume does not reload, e.g. [network_g]")
    experiments_root: str = option("experiments", "folder of all training runs")
    results_root: str = option("results", "folder of all test runs")
    models: str | None = option(None, "weights of this run", run=True)
    training_states: str | None = option(None, "training states of this run", run=True)
    log: str | None = option(None, "log files of this run", run=True)
    visualization: str | None = option(None, "pictures of this run", run=True)


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Section):
    """The optimisation. Every key that ends in `_opt` is a loss; the losses are added up."""

    optim_g: OptimizerSpec = option(doc="optimizer of network_g, e.g. {type: Adam, lr: 2e-4, betas: [0.9, 0.99]}")
    scheduler: SchedulerSpec | None = option(None, "learning rate over the iterations; null: constant")
    total_iter: int = option(doc="optimizer steps of the whole run")
    warmup_iter: int = option(-1, "steps of linear warm-up, reaching the configured rate at the last of them; -1: none")
    pixel_opt: LossSpec | None = option(None, "loss between output and ground truth")
    perceptual_opt: LossSpec | None = option(None, "loss between VGG features of output and ground truth")
    ema_decay: float = option(0.0, "moving average of the weights, per step, in [0, 1); 0: none")
    accum_iter: int = option(1, "batches whose gradients are averaged for one optimizer step")
    grad_clip: float | None = option(
        None, "largest L2 norm of the gradient; above it the gradient is scaled down; null: no limit"
    )
    use_grad_clip: bool = option(False, "as published files of ATD-U say it: limit 0.01, unless grad_clip sets another")
    amp: Literal["bf16", "fp16"] | None = option(
        None,
        "autocast of forward and loss: bf16, or fp16 with scaled gradients (on CUDA; elsewhere bf16); null: float32",
    )
    use_fp16: bool = option(False, "as published files of ATD say it: amp: fp16")
    cuda_graph: bool | None = option(
        None,
        "on CUDA, repeat the step as one graph, which gives the same numbers faster; null: where the model allows it "
        "(the log says why not); true: insist; false: never",
    )
    nan: Literal["stop", "skip"] = option(
        "stop", "when a loss or the gradient is not finite: end the run, or skip the step; both name the files"
    )
    nan_limit: int = option(10, "with nan: skip, steps that may be skipped before the run ends all the same")
    mixing_augs: dict[str, Any] | None = option(
        None,
        "MixUp, which published files of ATD-U configure but their code never ran; accepted, and not run here either",
    )

    key_patterns: ClassVar[Mapping[str, Any]] = {"*_opt": LossSpec, "optim_*": OptimizerSpec}

    def __post_init__(self) -> None:
        at_least(1, self, "total_iter", "accum_iter")
        at_least(0, self, "nan_limit")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay: must be in [0, 1), got {self.ema_decay}; 0 turns EMA off")
        if self.grad_clip is not None and self.grad_clip <= 0:
            raise ValueError(f"grad_clip: must be above 0, got {self.grad_clip}; null turns clipping off")
        if self.use_fp16 and self.amp == "bf16":
            raise ValueError("use_fp16: means amp: fp16, but amp is bf16; keep one of them")

    @property
    def mixed_precision(self) -> Literal["bf16", "fp16"] | None:
        """`amp`, in whichever words."""
        return "fp16" if self.use_fp16 else self.amp

    @property
    def largest_norm(self) -> float | None:
        """L2 norm that gradients are clipped at; None: they are not."""
        return PUBLISHED_GRAD_CLIP if self.grad_clip is None and self.use_grad_clip else self.grad_clip

    @property
    def losses(self) -> dict[str, Spec]:
        """All losses by their key, in the order of the file's fields."""
        return {key: self[key] for key in self if key.endswith("_opt")}


@dataclass(frozen=True, kw_only=True)
class ValOptions(Section):
    """Validation during training, and test runs."""

    val_freq: int | None = option(None, "iterations between validations; null: only at the end")
    save_img: bool = option(False, "write the output images")
    suffix: str | None = option(
        None, "appended to the names of output images; null: the name of the run (tests), none (training)"
    )
    pbar: bool = option(True, "show a progress bar")
    metrics: dict[str, MetricSpec] | None = option(
        None, "name: {type: calculate_psnr, crop_border: 4, test_y_channel: true, ...}"
    )
    amp: Literal["bf16"] | None = option(None, "run the network in bfloat16, which costs some 0.01 dB; null: float32")
    compile: bool = option(
        False, "torch.compile the network, one graph for all sizes; takes minutes, worth it on GPUs at most"
    )
    self_ensemble: bool = option(
        False, "average the outputs over the 8 flips and rotations of the input; 8 times slower"
    )

    expect_teacher_psnr: dict[str, tuple[float, float]] | None = option(
        None, "with a teacher: its PSNR on a set and the tolerance in dB, e.g. {Set5: [38.28, 0.05]}; else the run ends"
    )

    def __post_init__(self) -> None:
        if self.val_freq is not None:
            at_least(1, self, "val_freq")


@dataclass(frozen=True, kw_only=True)
class WandbOptions(Section):
    """Weights & Biases; needs `pip install basicsr[wandb]`."""

    project: str | None = option(None, "project to log to; null: do not log there")
    resume_id: str | None = option(None, "id of a run to continue")

    def __post_init__(self) -> None:
        if self.project is not None and find_spec("wandb") is None:
            raise ValueError("project: needs the package wandb; pip install basicsr[wandb], or set project: ~")


@dataclass(frozen=True, kw_only=True)
class LoggerOptions(Section):
    """What a training run writes, and how often."""

    print_freq: int = option(100, "iterations between log lines")
    save_checkpoint_freq: int = option(5000, "iterations between checkpoints")
    keep_checkpoints: int | None = option(
        None, "newest checkpoints that are kept; the others are deleted, but never one of the best scores; null: all"
    )
    checkpoint_format: Literal["pth", "safetensors", "both"] = option(
        "pth", "of weight files; safetensors needs `pip install basicsr[safetensors]`; states are always `.state`"
    )
    use_tb_logger: bool = option(False, "write TensorBoard files to tb_logger/<name>")
    wandb: WandbOptions | None = option(None, "Weights & Biases; null: not used")

    def __post_init__(self) -> None:
        at_least(1, self, "print_freq", "save_checkpoint_freq")
        if self.keep_checkpoints is not None:
            at_least(1, self, "keep_checkpoints")
        if self.checkpoint_format != "pth" and find_spec("safetensors") is None:
            raise ValueError(
                "checkpoint_format: needs the package safetensors; pip install basicsr[safetensors], or set it to pth"
            )

    @property
    def weight_suffixes(self) -> tuple[str, ...]:
        """Of the weight files that are written."""
        return (".pth", ".safetensors") if self.checkpoint_format == "both" else (f".{self.checkpoint_format}",)


@dataclass(frozen=True, kw_only=True)
class DistOptions(Section):
    """Several processes."""

    backend: Literal["nccl", "gloo"] | None = option(
        None, "null: nccl on GPUs, gloo on CPUs; nccl falls back to gloo on CPUs"
    )
    port: int | None = option(None, "port of the rendezvous under SLURM")
    timeout: float = option(
        1800.0,
        "seconds that a process waits for another one, or for a batch of its loader processes, before the run ends",
    )

    def __post_init__(self) -> None:
        if not 1 <= self.timeout <= 1_000_000:
            raise ValueError(f"timeout: must be in [1, 1000000] seconds, got {self.timeout}")


@dataclass(frozen=True, kw_only=True)
class Options(Section):
    """One run."""

    name: str = option(doc="name of the run and of its folders; `debug` in it means short intervals")
    model_type: str = option("SRModel", "class of the model, e.g. SRModel, CATANetModel")
    scale: int = option(doc="enlargement factor of the task")
    num_gpu: int | Literal["auto"] = option("auto", "0: CPU; otherwise the GPU of each process where there is one")
    manual_seed: int = option(0, "seed of everything random")
    deterministic: bool = option(
        False, "the same weights from every run on the same hardware: only operations that repeat bit for bit; slower"
    )
    matmul_precision: MatmulPrecision = option(
        "highest",
        "of float32 products and convolutions on a GPU, for all networks: highest, float32; high, TF32, faster; "
        "medium, bfloat16 where PyTorch has it",
    )
    find_unused_parameters: bool = option(False, "let DDP look for parameters that got no gradient")
    datasets: dict[str, DatasetOptions] = option(
        doc="train, val, val_1.. and test, test_1..: the phase is the part before `_`"
    )
    network_g: NetworkSpec = option(doc="the network, e.g. {type: CATANet-L, upscale: 4}")
    path: PathOptions = option(PathOptions(), "files and folders")
    train: TrainOptions | None = option(None, "optimisation; needed for training")
    prune: PruneOptions | None = option(None, "PruneDistillModel: which groups of network_g stay")
    budget: BudgetOptions = option(BudgetOptions(), "PruneDistillModel: what the pruned network may cost")
    kd: DistillOptions = option(DistillOptions(), "PruneDistillModel: what network_g learns from network_t")
    compact: CompactOptions = option(CompactOptions(), "PruneDistillModel: removal of the dropped groups")
    val: ValOptions = option(ValOptions(), "validation and test")
    logger: LoggerOptions = option(LoggerOptions(), "logs and checkpoints")
    dist_params: DistOptions = option(DistOptions(), "several processes")
    is_train: bool = option(False, "training rather than testing", run=True)
    debug: bool = option(False, "short intervals, no trackers", run=True)
    auto_resume: bool = option(False, "continue from the newest state of this name", run=True)
    force_resume: bool = option(False, "continue although options have changed that decide the result", run=True)
    launcher: str = option("none", "none, pytorch or slurm", run=True)
    dist: bool = option(False, "several processes work together", run=True)
    rank: int = option(0, "index of this process", run=True)
    world_size: int = option(1, "number of processes", run=True)
    source: str | None = option(None, "the YAML file", run=True)

    key_patterns: ClassVar[Mapping[str, Any]] = {"network_*": NetworkSpec}

    def __post_init__(self) -> None:
        at_least(1, self, "scale")
        if not self.name or os.sep in self.name or self.name in (".", ".."):
            raise ValueError(f"name: must be usable as the name of a folder, got {self.name!r}")
        for key in self.datasets:
            if key.split("_")[0] not in ("train", "val", "test"):
                raise ValueError(f"datasets.{key}: must be train, val, val_1.. or test, test_1..; rename it")

    def datasets_of(self, *phases: str) -> dict[str, DatasetOptions]:
        """The data sets of these phases, sorted by key."""
        return {key: self.datasets[key] for key in sorted(self.datasets) if key.split("_")[0] in phases}


def load_options(path: str | Path, overrides: Sequence[str] = (), *, is_train: bool) -> Options:
    """Read, override, check and type the options of a run.

    Args:
        path: the YAML file; one that lies in a folder below is found too (`find_options_file`).
        overrides: `a:b=value` (or `a.b=value`), the value read as YAML.

    Raises:
        OptionError: one line that says where (file and line), which key, what is wrong, and what to do.
    """
    path = find_options_file(path)
    values, places = load_yaml(path)
    places[()] = str(path)
    for override in overrides:
        _apply_override(values, places, override)
    if isinstance(files := values.get("path"), dict) and "param_key" in files:
        files.setdefault("param_key_g", files["param_key"])
    options = structure(Options, values, Where(places, for_plugin=_is_plugin(values.get("model_type"))))
    check(options, is_train)
    return replace(options, is_train=is_train, source=str(path))


def find_options_file(path: str | Path) -> Path:
    """`path`, or if there is no such file, the only one of that name up to two folders below its own.

    Raises:
        OptionError: when there are several, or none but some with names like it.
    """
    path = Path(path)
    if path.exists():
        return path
    folders = [path.parent, *path.parent.glob("*/"), *path.parent.glob("*/*/")]
    found = sorted(str(folder / path.name) for folder in folders if (folder / path.name).is_file())
    if len(found) == 1:
        logger.warning("%s: no such file; taking %s", path, found[0])
        return Path(found[0])
    if found:
        raise OptionError(f"{path}: no such file; did you mean one of {', '.join(found)}?")
    others = {file.stem: file for folder in reversed(folders) for file in folder.glob("*.yml")}
    if near := [str(others[name]) for name in get_close_matches(path.stem, others)]:
        raise OptionError(f"{path}: no such file; did you mean {' or '.join(near)}?")
    return path


def check(options: Options, is_train: bool) -> None:
    """What types cannot say: the model exists, the phases are there, and each constructor accepts its values.

    Networks are built for their shapes only, see `construction.py`, and the optimizer over one number.
    """
    import torch

    from basicsr.config.construction import TooLargeError, build_for_shapes

    where = options.where
    try:
        MODEL_REGISTRY.get(options.model_type)
    except UnknownNameError as error:
        raise (where / "model_type").error(str(error)) from error
    for spec in (options[key] for key in options if key.startswith("network_")):
        try:
            build_for_shapes(functools.partial(ARCH_REGISTRY.build, spec))
        except TooLargeError as error:
            logger.info("%s: not checked beforehand (%s)", spec.where, error)
        except (RuntimeError, OverflowError, MemoryError) as error:
            raise spec.where.error(f"cannot be built with these sizes ({error or 'too large'})") from error
    upscale = options.network_g.get("upscale", options.scale)
    if upscale != options.scale:
        raise (where / "scale").error(f"is {options.scale}, but network_g.upscale is {upscale}; make them equal")
    for section in options.datasets_of("val", "test").values():
        if section.cache == "device":
            raise (section.where / "cache").error("device is for training sets, whose batches are crops; leave it out")
    if not is_train:
        if not options.datasets_of("val", "test"):
            raise (where / "datasets").error("has no test set; add `test_1: {type: PairedImageDataset, ...}`")
        return
    if options.train is None:
        raise (where / "train").error("is missing; a training run needs optim_g, total_iter and a loss")
    if "train" not in options.datasets:
        raise (where / "datasets").error("has no `train` entry to train on")
    if not options.train.losses and not where.for_plugin:
        raise (where / "train").error("has no loss; add e.g. `pixel_opt: {type: L1Loss, loss_weight: 1.0}`")
    if options.train.mixing_augs:
        logger.warning("%s: not run, as in the code these options are from", options.train.where / "mixing_augs")
    weight: Any = torch.nn.Parameter(torch.zeros(2, 2))
    takes_names = getattr(OPTIMIZER_REGISTRY.get(options.train.optim_g.type), "takes_names", False)
    try:
        OPTIMIZER_REGISTRY.build(options.train.optim_g, [("weight", weight) if takes_names else weight])
    except RuntimeError as error:  # e.g. `foreach` together with `fused`
        raise options.train.optim_g.where.error(str(error)) from error
    if options.train.scheduler is not None:
        SCHEDULER_REGISTRY.build(options.train.scheduler)


def resolve(options: Options, *, launcher: str = "none", rank: int = 0, world_size: int = 1,
            debug: bool = False, auto_resume: bool = False, force_resume: bool = False) -> Options:  # fmt: skip
    """Add what the run decides: its place among the processes, its folders, the short intervals of a debug run."""
    debug = debug or "debug" in options.name
    name = f"debug_{options.name}" if debug and "debug" not in options.name else options.name
    if options.is_train:
        root = Path(options.path.experiments_root) / name
        path = replace(options.path, models=str(root / "models"), training_states=str(root / "training_states"),
                       log=str(root), visualization=str(root / "visualization"))  # fmt: skip
    else:
        root = Path(options.path.results_root) / name
        path = replace(options.path, log=str(root), visualization=str(root / "visualization"))
    val, log = options.val, options.logger
    if debug and options.is_train:
        val = replace(val, val_freq=8)
        log = replace(log, print_freq=1, save_checkpoint_freq=8, use_tb_logger=False, wandb=None)
    return replace(
        options, name=name, path=path, val=val, logger=log, debug=debug, auto_resume=auto_resume,
        force_resume=force_resume, launcher=launcher, rank=rank, world_size=world_size, dist=world_size > 1,
    )  # fmt: skip


def below(root_path: str | Path | None, options: Options) -> Options:
    """The options with `experiments` and `results` below `root_path`; None: below the current folder."""
    if root_path is None:
        return options
    path = options.path
    experiments, results = Path(root_path) / path.experiments_root, Path(root_path) / path.results_root
    return replace(options, path=replace(path, experiments_root=str(experiments), results_root=str(results)))


def _is_plugin(model_type: Any) -> bool:
    """Whether this model is registered by code from outside the package."""
    try:
        return not MODEL_REGISTRY.get(model_type).__module__.startswith("basicsr.")
    except (UnknownNameError, TypeError):  # `check` will say so
        return False


def dump_options(options: Options) -> str:
    """The options as YAML text, defaults filled in."""
    return yaml.safe_dump(options.to_dict(), sort_keys=False, allow_unicode=True)


def copy_options_file(source: str | Path, folder: str | Path) -> None:
    """Copy the YAML file into the run's folder, comments kept, under a header that says when and by which command."""
    from datetime import datetime

    header = f"# GENERATE TIME: {datetime.now():%Y-%m-%d %H:%M:%S}\n# CMD:\n# {' '.join(sys.argv)}\n\n"
    text = Path(source).read_text(encoding="utf-8")
    (Path(folder) / Path(source).name).write_text(header + text, encoding="utf-8")


def _apply_override(values: dict[str, Any], places: dict[Path_, str], override: str) -> None:
    place = f"--force_yml {printable(override)}"
    dotted, equals, text = override.partition("=")
    keys = tuple(dotted.replace(".", ":").split(":"))
    if not equals or not all(keys) or not dotted.isprintable() or len(keys) > MAX_DEPTH:
        raise OptionError(f"{place}: expected a:b=value")
    try:
        value = parse_value(text)
    except yaml.YAMLError as error:
        raise OptionError(f"{place}: the value is no valid YAML") from error
    node: Any = values
    for depth, key in enumerate(keys[:-1]):
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise OptionError(f"{place}: {'.'.join(keys[: depth + 1])} is a value, not a section")
    node[keys[-1]] = value
    places[keys] = place
