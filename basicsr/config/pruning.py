"""Options of `PruneDistillModel`: the sections `prune`, `budget`, `kd` and `compact` of a YAML file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from basicsr.config.ranges import (
    Channels,
    Flag,
    Images,
    Index,
    Iteration,
    Iterations,
    Layers,
    Pixels,
    Positive,
    Probability,
    Range,
    Rate,
    Seed,
    Weight,
)
from basicsr.config.section import Section, option

Sampler = Literal["subset", "nm", "bernoulli", "fixed"]
RESOURCES = ("blocks", "params", "macs_g", "latency_ms")


@dataclass(frozen=True, kw_only=True)
class InterBlockOptions(Section):
    """Sampler nm: local blocks shift groups between them (TinySR's inter-block activation)."""

    enable: bool = option(True, "let pairs of local blocks shift groups between them; the total stays")
    k: Layers = option(1, "groups that a pair shifts")
    pairs: Literal["chain"] | list[tuple[Index, Index]] = option(
        "chain", "pairs of local blocks; chain: (0, 1), (2, 3), ..."
    )


@dataclass(frozen=True, kw_only=True)
class PruneOptions(Section):
    """How the residual groups of network_g to keep are learned."""

    stage: Literal["search", "finetune"] = option(
        "search", "search: learn the mask and emit the compact network; finetune: distil the teacher into it"
    )
    sampler: Sampler = option(
        "subset", "subset: one logit a feasible mask; nm: patterns; bernoulli: one a group; fixed: `fixed_mask`"
    )
    logits: Literal["per_option", "per_block"] = option(
        "per_option", "subset: a logit for each mask, or for each group"
    )
    patterns: list[tuple[Index, Layers]] | None = option(
        None, "nm: [keep, size] of each local block, e.g. [[2, 4], [1, 4]]"
    )
    min_keep_per_block: Index = option(0, "nm: groups that each local block keeps at least")
    inter_block: InterBlockOptions = option(InterBlockOptions(), "nm: shifting groups between local blocks")
    fixed_mask: list[Flag] | None = option(None, "fixed: 1 (keep) or 0 for each group")
    force_keep: list[Index] = option(factory=list, doc="0-based indices of groups that every mask keeps")
    force_drop: list[Index] = option(factory=list, doc="0-based indices of groups that every mask drops")
    logit_init: Annotated[float, Range(-1000, 1000)] = option(0.02, "initial value of all logits")
    logit_scale: Positive = option(1.0, "factor on the logits")
    tau: tuple[Positive, Positive] = option((4.0, 0.1), "temperature at the start and the end of the search, linear")
    eps_uniform: Probability = option(0.05, "probability of drawing uniformly, falling to 0 over the search")
    entropy_weight: Weight = option(
        0.0, "weight of a bonus for the entropy of the masks, falling to 0 over half of the search"
    )
    mask_chunks: Images = option(1, "parts of the batch, each with its own mask")
    mask_seed: Seed = option(3407, "seed of the draws")
    warmup_iter: Iteration = option(2000, "iterations with uniformly drawn masks and frozen logits")
    search_iter: Iteration = option(16000, "iterations in which logits and weights learn")
    settle_iter: Iteration = option(
        2000, "iterations with the chosen mask; warm-up + search + settle = train.total_iter"
    )
    min_search_iter: Iteration = option(8000, "iterations of search before it may end early")
    freeze_conf: Probability = option(0.9, "probability of the best mask from which the search may end early")
    freeze_patience: Iteration = option(2000, "iterations that the best mask must not have changed for that")
    topk_report: Annotated[int, Range(1, 10_000)] = option(10, "masks that prune_report.json ranks")
    pick: Literal["mode", "best_of_topk"] = option(
        "mode",
        "mask that stays: the most probable one; or the best of the `pick_topk` most probable ones, by PSNR on the "
        "`val` sets after a short fine-tuning of each",
    )
    pick_topk: Annotated[int, Range(1, 10_000)] = option(5, "best_of_topk: masks that are tried")
    pick_iter: Iterations = option(2000, "best_of_topk: iterations of fine-tuning for each, with `compact.finetune`")
    delta_w: Literal["full", "lora", "none"] = option(
        "full", "weights that learn in the search: all of them, low-rank additions, none"
    )
    lora_rank: Channels = option(8, "delta_w lora: rank")
    init_from: Literal["cotrained", "teacher"] = option(
        "cotrained", "weights of the compact network: those after the search, or those before it"
    )
    recalib_iter: Iteration = option(200, "forwards that recompute the token centres of the compact network; 0: none")
    recalib_decay: Probability = option(0.98, "decay of the centres' moving average in these forwards")
    sync_check_freq: Iterations = option(1000, "iterations between checks that all processes hold the same logits")
    tail: Literal["original", "direct"] = option(
        "original", "reconstruction of the compact network: kept, or one convolution before the pixel shuffle"
    )
    tail_fit: Iteration = option(
        0,
        "finetune: first iterations, which train nothing but fit a tail of one convolution by least squares",
    )
    tail_warmup_iter: Iteration = option(0, "finetune: first iterations, which train only the tail")
    tail_warmup_lr: Rate = option(1e-3, "finetune: learning rate of these iterations")
    kept: list[Index] | None = option(
        None,
        "groups of the teacher (search: of the original network) that network_g has, where it was cut before; 0-based, "
        "ascending; null: from the weight file",
    )

    def __post_init__(self) -> None:
        if self.sampler == "fixed" and self.stage == "search" and self.fixed_mask is None:
            raise ValueError("fixed_mask: is missing; sampler fixed needs 1 or 0 for each group")
        if self.sampler == "nm" and self.stage == "search" and self.patterns is None:
            raise ValueError("patterns: is missing; sampler nm needs [keep, size] for each local block")


@dataclass(frozen=True, kw_only=True)
class DualOptions(Section):
    """Dual ascent on the weights of the budget loss."""

    enable: bool = option(False, "let the weights grow while the budget is exceeded")
    eta: Weight = option(0.1, "step")
    max: Weight = option(100.0, "largest weight")
    every: Iterations = option(100, "iterations between steps")


@dataclass(frozen=True, kw_only=True)
class BudgetOptions(Section):
    """Limits on the cost of the compact network; null: no limit."""

    blocks: Layers | None = option(None, "residual groups")
    params: Annotated[int, Range(1, 10**12)] | None = option(None, "parameters, without buffers")
    macs_g: Positive | None = option(None, "Multi-Adds in G at ref_size, attention included")
    latency_ms: Positive | None = option(None, "median latency in ms at ref_size on latency_device")
    ref_size: tuple[Pixels, Pixels] = option(
        (256, 256), "height, width of the input that macs_g and latency_ms refer to"
    )
    latency_device: str = option("auto", "cpu, cuda, mps; auto: where the run trains")
    mode: Literal["hard", "loss"] = option(
        "hard", "hard: only masks within the budget are drawn; loss: a loss pulls towards it (bernoulli: always)"
    )
    weight: Weight = option(10.0, "weight of the budget loss")
    two_sided: bool = option(True, "the budget loss also pulls up, so that the budget is used")
    dual: DualOptions = option(DualOptions(), "dual ascent on the weight of the budget loss")

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by resource."""
        return {key: float(self[key]) for key in RESOURCES if self[key] is not None}


@dataclass(frozen=True, kw_only=True)
class SpatialAffinityOptions(Section):
    """FAKD's spatial affinity; see `SpatialAffinityLoss`."""

    weight: Weight = option(0.0, "factor; 0: off. FAKD's 10 for images in 0..255 is 0.04 here")
    mode: Literal["exact", "gram"] = option(
        "exact", "exact: mean absolute difference; gram: mean square, without n x n"
    )
    chunk: Annotated[int, Range(1, 10**6)] = option(512, "exact: rows of the n x n matrices held at a time")
    pool: Pixels = option(1, "average-pool the features by this factor first")
    anchors: Annotated[int, Range(0, 10**6)] = option(0, "exact: random rows compared in each step; 0: all")

    def __post_init__(self) -> None:
        if self.anchors and self.mode == "gram":
            raise ValueError(f"anchors: belong to mode exact, got {self.anchors} with gram; set anchors: 0")


@dataclass(frozen=True, kw_only=True)
class AffinityOptions(Section):
    """A term of the distillation that has only a weight."""

    weight: Weight = option(0.0, "factor; 0: off")


@dataclass(frozen=True, kw_only=True)
class FeatureOptions(Section):
    """Masked feature loss (TinyFusion)."""

    weight: Weight = option(0.0, "factor; 0: off")
    sigma: Positive = option(2.0, "entries farther than this many deviations from the mean are ignored")
    adapter: bool = option(False, "a 1x1 convolution from the student's to the teacher's channels")


@dataclass(frozen=True, kw_only=True)
class ZoomOptions(Section):
    """Crops of the ground truth as further inputs, with the teacher's outputs as targets (DUKD)."""

    weight: Weight = option(0.0, "factor; 0: off")
    crops: Images = option(1, "crops of an image and step")
    augment: Probability = option(0.3, "probability of an invertible transform of the student's input")


@dataclass(frozen=True, kw_only=True)
class DistillOptions(Section):
    """Distillation of network_t into network_g."""

    alpha: Probability = option(0.5, "share of the distance to the teacher's output; the rest is ground truth")
    alpha_off_at: Probability = option(0.8, "fraction of train.total_iter after which alpha is 0 (finetune)")
    feature_decay: Literal["none", "linear"] = option("linear", "schedule of the weights of feature terms")
    feature_off_at: Probability = option(0.8, "fraction of train.total_iter at which they reach 0")
    match: Literal["absorb", "origin", "uniform"] = option(
        "absorb",
        "teacher group that a student's group is compared with: the last before the next kept one, itself, "
        "or evenly spread",
    )
    taps: Literal["all", "last"] | list[Index] = option("all", "groups of the student that are compared")
    search_taps: Literal["none", "last"] = option("none", "the same during the search of the mask")
    sa: SpatialAffinityOptions = option(SpatialAffinityOptions(), "spatial affinity")
    ca: AffinityOptions = option(AffinityOptions(), "channel affinity")
    ia: AffinityOptions = option(AffinityOptions(), "instance affinity")
    feat: FeatureOptions = option(FeatureOptions(), "masked feature loss")
    zoom: ZoomOptions = option(ZoomOptions(), "crops of the ground truth as inputs")


@dataclass(frozen=True, kw_only=True)
class CompactOptions(Section):
    """Physical removal of the dropped groups at the end of the search."""

    enable: bool = option(True, "write the compact network")
    tolerance: Weight = option(1e-6, "largest allowed difference between its outputs and those of the masked network")
    mlp_dim: Channels | None = option(
        None, "hidden channels that each FFN of the compact network keeps, the most important ones; null: all"
    )
    emit_yaml: bool = option(True, "also write option files for its fine-tuning and its test")
    finetune: Mapping[str, Any] = option(
        factory=dict, doc="keys of the `train` section of the emitted option file, which override those of the search"
    )
