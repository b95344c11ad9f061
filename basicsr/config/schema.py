"""The schema of a YAML file: the typed, frozen options of a run. `docs/options.md` is generated from these classes.

Nothing writes to options. Values that a run decides (rank, folders) are set once, by `basicsr.config.load.resolve`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, Literal

from basicsr.config.location import Location
from basicsr.config.pruning import BudgetOptions, CompactOptions, DistillOptions, PruneOptions
from basicsr.config.registry import ARCH_REGISTRY, DATASET_REGISTRY, METRIC_REGISTRY
from basicsr.config.section import Component, Hints, Section, Spec, at_least, option, signature_hints
from basicsr.config.training import TrainOptions
from basicsr.errors import UnknownNameError

NetworkSpec = Annotated[Spec, Component(ARCH_REGISTRY)]
MetricSpec = Annotated[Spec, Component(METRIC_REGISTRY, ("img", "img2"), {"better": Literal["higher", "lower"]})]

MatmulPrecision = Literal["highest", "high", "medium"]


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
    def extra_hints(cls, data: Mapping[str, Any], where: Location) -> Hints | None:
        """Return the constructor arguments of the class `type`; None for an old plug-in that takes one `opt`."""
        if not isinstance(data.get("type"), str):
            return Hints({})
        try:
            hints = signature_hints(DATASET_REGISTRY.get(data["type"]), cls.SUPPLIED)
        except UnknownNameError as error:
            raise (where / "type").error(str(error)) from error
        return None if set(hints.types) == {"opt"} else hints

    @property
    def spec(self) -> Spec:
        """The type of the data set and its constructor arguments."""
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
        """Suffixes of the weight files to write, e.g. `.pth`."""
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
        """Return the data sets of these phases (train, val, test), sorted by key."""
        return {key: self.datasets[key] for key in sorted(self.datasets) if key.split("_")[0] in phases}
