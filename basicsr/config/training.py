"""Options of the optimisation: the section `train` of a YAML file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from basicsr.config.registry import LOSS_REGISTRY, OPTIMIZER_REGISTRY, SCHEDULER_REGISTRY
from basicsr.config.section import Component, Section, Spec, at_least, option

LossSpec = Annotated[Spec, Component(LOSS_REGISTRY)]
OptimizerSpec = Annotated[Spec, Component(OPTIMIZER_REGISTRY, ("params",))]
SchedulerSpec = Annotated[Spec, Component(SCHEDULER_REGISTRY)]

PUBLISHED_GRAD_CLIP = 0.01  # gradient norm that `use_grad_clip: true` stands for


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
        """Precision of autocast, from `amp` or `use_fp16`; None: float32."""
        return "fp16" if self.use_fp16 else self.amp

    @property
    def max_grad_norm(self) -> float | None:
        """L2 norm that gradients are clipped to, from `grad_clip` or `use_grad_clip`; None: no clipping."""
        return PUBLISHED_GRAD_CLIP if self.grad_clip is None and self.use_grad_clip else self.grad_clip

    @property
    def losses(self) -> dict[str, Spec]:
        """All losses by their key, e.g. `pixel_opt`: declared ones first, then in the order of the file."""
        return {key: self[key] for key in self if key.endswith("_opt")}
