"""The schema of a YAML file: the typed, frozen options of a run. `docs/options.md` is generated from these classes.

Nothing writes to options. Values that a run decides (rank, folders) are set once, by `basicsr.config.load.resolve`.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, Literal

from basicsr.config.components import check_network
from basicsr.config.degradation import DegradationOptions
from basicsr.config.input_form import PLAIN_RGB, InputForm
from basicsr.config.location import Location
from basicsr.config.pruning import BudgetOptions, CompactOptions, DistillOptions, PruneOptions
from basicsr.config.ranges import Decibels, Images, Iterations, Pixels, Range, Scale, Seed
from basicsr.config.registry import ARCH_REGISTRY, DATASET_REGISTRY, METRIC_REGISTRY, is_plugin
from basicsr.config.section import Component, Hints, Section, Spec, option, signature_hints
from basicsr.config.training import TrainOptions
from basicsr.errors import UnknownNameError

NetworkSpec = Annotated[Spec, Component(ARCH_REGISTRY, check=check_network)]
MetricSpec = Annotated[
    Spec, Component(METRIC_REGISTRY, ("img", "img2"), extra_keys={"better": Literal["higher", "lower"]})
]

MatmulPrecision = Literal["highest", "high", "medium"]


@dataclass(frozen=True, kw_only=True)
class DatasetOptions(Section):
    """One data set and its loader. Further keys are constructor arguments of the class that `type` names."""

    name: str = option("", "name of the data set in logs, score tables and folders")
    type: str = option(doc="registered class, e.g. PairedImageDataset")
    batch_size_per_gpu: Images = option(1, "samples per process (GPU) and training step")
    num_worker_per_gpu: Annotated[int, Range(0, 256)] = option(
        0, "loader processes per training process; 0: load in the training process itself"
    )
    dataset_enlarge_ratio: Annotated[int, Range(1, 100_000)] = option(
        1, "passes over the data set that make one epoch, each with new crops"
    )
    prefetch_mode: Literal["cpu", "cuda"] | None = option(
        None, "has no effect: batches are always prefetched; accepted for files of BasicSR"
    )
    num_prefetch_queue: Annotated[int, Range(1, 1000)] = option(
        2, "batches that each loader process prepares in advance"
    )
    pin_memory: bool | None = option(
        None, "put training batches in page-locked memory, for asynchronous copies to the GPU; null: only on CUDA"
    )
    persistent_workers: bool = option(True, "keep the loader processes between epochs")
    cache: Literal["memory", "device"] = option(
        "memory",
        "where a PairedImageDataset for training keeps its images. memory: in main memory, up to cache_mb; device: all "
        "on the training device, which crops the same batches there without loader processes. If they do not fit "
        "there, a warning is logged and memory is used",
    )

    data_check: Literal["samples", "content"] = option(
        "samples",
        "what a resumed run compares of a file, besides name and length. samples: 4 KiB at the start, the middle and "
        "the end, or all bytes of a set of up to 512 MiB; content: all bytes, read at every start",
    )

    SUPPLIED: ClassVar = ("scale", "phase", "seed")
    CHECKED_LATER: ClassVar[Mapping[str, Any]] = {
        # what the run decides, but files of BasicSR may repeat; see `data_checks.py`
        "scale": Scale,
        "phase": Literal["train", "val", "test"],
        "seed": Seed,
        # stages of progressive training, which the model reads
        "mini_batch_sizes": Sequence[Images] | None,
        "iters": Sequence[Iterations] | None,
        "gt_sizes": Sequence[Pixels] | None,
    }

    @classmethod
    def extra_hints(cls, data: Mapping[str, Any], where: Location) -> Hints | None:
        """Return the constructor arguments of the class `type`; None for an old plug-in that takes one `opt`."""
        if not isinstance(data.get("type"), str):
            return Hints({})
        try:
            make = DATASET_REGISTRY.get(data["type"])
        except UnknownNameError as error:
            raise (where / "type").error(str(error), names_component=True) from error
        hints = signature_hints(make, cls.SUPPLIED)
        if set(hints.types) == {"opt"}:
            return None
        if is_plugin(make):
            return hints
        return hints._replace(types={**cls.CHECKED_LATER, **hints.types})

    @property
    def spec(self) -> Spec:
        """The type of the data set and its constructor arguments."""
        return Spec({"type": self.type, **self.extra}, self.where)


@dataclass(frozen=True, kw_only=True)
class PathOptions(Section):
    """Files to start from and folders to write to. Relative paths are relative to the current folder."""

    pretrain_network_g: str | None = option(None, "weight file of `network_g`, to start training from or to test")
    param_key_g: str | None = option(
        "params", "entry of that file to load: params or params_ema; null: the file itself is the state dict"
    )
    param_key: str | None = option(None, "older name of param_key_g in files of ATD-U; param_key_g takes precedence")
    pretrain_network_d: str | None = option(None, "weight file of the discriminator `network_d`")
    param_key_d: str | None = option("params", "entry of that file to load; null: the file itself is the state dict")
    strict_load_d: bool = option(True, "as strict_load_g")
    pretrain_network_t: str | None = option(None, "weight file of the teacher `network_t`")
    param_key_t: str | None = option("params", "entry of that file to load")
    strict_load_g: bool = option(
        True, "require that all names and shapes match; false: load those that match and log the others"
    )
    resume_state: str | None = option(None, "`.state` file to resume from")
    ignore_resume_networks: list[str] | None = option(
        None, "networks whose weights are not restored on resume, e.g. [network_g]"
    )
    experiments_root: str = option("experiments", "parent folder of all training runs")
    results_root: str = option("results", "parent folder of all test runs")
    models: str | None = option(None, "weights of this run", run=True)
    training_states: str | None = option(None, "training states of this run", run=True)
    log: str | None = option(None, "log files of this run", run=True)
    visualization: str | None = option(None, "output images of this run", run=True)


@dataclass(frozen=True, kw_only=True)
class ValOptions(Section):
    """Validation during training, and testing."""

    val_freq: Iterations | None = option(None, "iterations between validations; null: validate only at the end")
    save_img: bool = option(False, "save the output images")
    suffix: str | None = option(
        None, "suffix of the file names of output images; null: the name of the run in a test, none in training"
    )
    pbar: bool = option(True, "show a progress bar")
    metrics: dict[str, MetricSpec] | None = option(
        None,
        "metrics by a name of your choice, e.g. {psnr: {type: calculate_psnr, crop_border: 4, test_y_channel: true}}",
    )
    amp: Literal["bf16"] | None = option(
        None, "run the network in bfloat16, which lowers PSNR by about 0.01 dB; null: float32"
    )
    compile: bool = option(
        False, "compile the network by torch.compile, one graph for all sizes; takes minutes and pays off only on GPUs"
    )
    self_ensemble: bool = option(
        False, "average the outputs for the 8 flips and rotations of the input; 8 times slower"
    )
    expect_teacher_psnr: dict[str, tuple[Decibels, Decibels]] | None = option(
        None,
        "expected PSNR of the teacher on a data set and tolerance in dB, e.g. {Set5: [38.28, 0.05]}; the run ends with "
        "an error when the measured PSNR differs by more",
    )

    def __post_init__(self) -> None:
        if self.suffix is not None and (os.sep in self.suffix or "\0" in self.suffix):
            raise ValueError(f"suffix: is part of a file's name, so it has no {os.sep!r}, got {self.suffix!r}")


@dataclass(frozen=True, kw_only=True)
class WandbOptions(Section):
    """Logging to Weights & Biases; needs `pip install basicsr[wandb]`."""

    project: str | None = option(None, "project to log to; null: no logging there")
    resume_id: str | None = option(None, "id of the run to continue")

    def __post_init__(self) -> None:
        if self.project is not None and find_spec("wandb") is None:
            raise ValueError(
                "project: needs the package wandb; install it with `pip install basicsr[wandb]` or set project: null"
            )


@dataclass(frozen=True, kw_only=True)
class LoggerOptions(Section):
    """Logs and checkpoints of a training run."""

    print_freq: Iterations = option(100, "iterations between log lines")
    save_checkpoint_freq: Iterations = option(5000, "iterations between checkpoints")
    keep_checkpoints: Iterations | None = option(
        None, "number of newest checkpoints to keep; those with the best scores are always kept; null: keep all"
    )
    checkpoint_format: Literal["pth", "safetensors", "both"] = option(
        "pth",
        "format of weight files; safetensors needs `pip install basicsr[safetensors]`. Training states are always "
        "`.state` files",
    )
    use_tb_logger: bool = option(False, "write TensorBoard files to tb_logger/<name>")
    wandb: WandbOptions | None = option(None, "Weights & Biases; null: off")

    def __post_init__(self) -> None:
        if self.checkpoint_format != "pth" and find_spec("safetensors") is None:
            raise ValueError(
                f"checkpoint_format: {self.checkpoint_format} needs the package safetensors; install it with "
                "`pip install basicsr[safetensors]` or set pth"
            )

    @property
    def weight_suffixes(self) -> tuple[str, ...]:
        """Suffixes of the weight files to write, e.g. `.pth`."""
        return (".pth", ".safetensors") if self.checkpoint_format == "both" else (f".{self.checkpoint_format}",)


@dataclass(frozen=True, kw_only=True)
class DistOptions(Section):
    """Training and testing by several processes."""

    backend: Literal["nccl", "gloo"] | None = option(
        None, "communication library; null: nccl on GPUs, gloo on CPUs. On CPUs, nccl is replaced by gloo"
    )
    port: Annotated[int, Range(1, 65_535)] | None = option(None, "rendezvous port under SLURM")
    timeout: Annotated[float, Range(1, 1_000_000)] = option(
        1800.0,
        "seconds to wait for another process, or for a batch from the loader processes, before the run ends with an "
        "error",
    )


@dataclass(frozen=True, kw_only=True)
class Options(Section):
    """All options of one run."""

    name: str = option(
        doc="name of the run and its folder; a name that contains `debug` makes it a debug run with short intervals"
    )
    model_type: str = option("SRModel", "registered class of the model, e.g. SRModel or CATANetModel")
    scale: Scale = option(doc="upscaling factor")
    num_gpu: Annotated[int, Range(0, 10_000)] | Literal["auto"] = option(
        "auto", "0: run on the CPU; any other value: each process uses its GPU if there is one"
    )
    manual_seed: Seed = option(0, "seed of all random numbers")
    deterministic: bool = option(
        False,
        "use only operations that repeat bit for bit, so that runs on the same hardware give the same weights; slower",
    )
    matmul_precision: MatmulPrecision = option(
        "highest",
        "precision of float32 matrix products and convolutions on a GPU. highest: float32; high: TF32, faster; "
        "medium: bfloat16 where PyTorch supports it",
    )
    find_unused_parameters: bool = option(False, "let DDP search for parameters without gradient")
    datasets: dict[str, DatasetOptions] = option(doc="data sets by phase: train, val, val_1, ... and test, test_1, ...")
    network_g: NetworkSpec = option(doc="the network, e.g. {type: CATANet-L, upscale: 4}")
    path: PathOptions = option(PathOptions(), "files and folders")
    train: TrainOptions | None = option(None, "optimization; required for training")
    prune: PruneOptions | None = option(
        None, "PruneDistillModel: selection of the residual groups of network_g to keep"
    )
    budget: BudgetOptions = option(BudgetOptions(), "PruneDistillModel: limits on the cost of the pruned network")
    kd: DistillOptions = option(DistillOptions(), "PruneDistillModel: distillation of network_t into network_g")
    compact: CompactOptions = option(
        CompactOptions(), "PruneDistillModel: removal of the dropped groups from the network"
    )
    degradation: DegradationOptions | None = option(
        None, "RealESRNetModel, RealESRGANModel: how batches are degraded on the device; null: the defaults"
    )
    val: ValOptions = option(ValOptions(), "validation and testing")
    logger: LoggerOptions = option(LoggerOptions(), "logs and checkpoints")
    dist_params: DistOptions = option(DistOptions(), "distributed runs")
    is_train: bool = option(False, "whether this run trains; otherwise it tests", run=True)
    debug: bool = option(False, "use short intervals and no TensorBoard or Weights & Biases", run=True)
    auto_resume: bool = option(False, "resume from the newest state of the run of this name", run=True)
    force_resume: bool = option(False, "resume although options that affect the result have changed", run=True)
    launcher: str = option("none", "none, pytorch or slurm", run=True)
    dist: bool = option(False, "whether there are several processes", run=True)
    rank: int = option(0, "index of this process", run=True)
    world_size: int = option(1, "number of processes", run=True)
    source: str | None = option(None, "the YAML file", run=True)

    key_patterns: ClassVar[Mapping[str, Any]] = {"network_*": NetworkSpec}

    @property
    def input_form(self) -> InputForm:
        """How the network takes its images, as the training set says; without one, the first of the others."""
        return form_of_datasets(self.datasets)

    def datasets_of(self, *phases: str) -> dict[str, DatasetOptions]:
        """Return the data sets of these phases (train, val, test), sorted by key."""
        return of_phases(self.datasets, *phases)


def of_phases(datasets: Mapping[str, DatasetOptions], *phases: str) -> dict[str, DatasetOptions]:
    """Return those of the data sets whose keys are of these phases (train, val, test), sorted by key."""
    return {key: datasets[key] for key in sorted(datasets) if key.split("_")[0] in phases}


def form_of_datasets(datasets: Mapping[str, DatasetOptions]) -> InputForm:
    """Return how a network takes its images, as the training set says; without one, the first of the others."""
    for section in (*of_phases(datasets, "train").values(), *of_phases(datasets, "val", "test").values()):
        try:
            return InputForm.of(section)
        except (TypeError, ValueError):  # of a plug-in, whose `mean` is another thing
            return PLAIN_RGB
    return PLAIN_RGB
