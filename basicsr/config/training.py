"""Options of the optimization: the section `train` of a YAML file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from basicsr.config.components import check_optimizer
from basicsr.config.ranges import Decay, Epsilon, Images, Iteration, Iterations, Positive, Range, Rate
from basicsr.config.registry import LOSS_REGISTRY, OPTIMIZER_REGISTRY, SCHEDULER_REGISTRY
from basicsr.config.section import Component, Section, Spec, option

LossSpec = Annotated[Spec, Component(LOSS_REGISTRY)]
# Arguments of the optimizers in `torch.optim`, whose signatures have no ranges.
TORCH_ARGUMENTS: dict[str, Any] = {
    "lr": Rate,
    "betas": tuple[Decay, Decay],
    "eps": Epsilon,
    "weight_decay": Rate,
    "momentum": Decay,
    "dampening": Epsilon,
    "alpha": Decay,
    "rho": Decay,
    "lr_decay": Rate,
    "initial_accumulator_value": Rate,
    "momentum_decay": Epsilon,
}
OptimizerSpec = Annotated[Spec, Component(OPTIMIZER_REGISTRY, ("params",), TORCH_ARGUMENTS, check=check_optimizer)]
SchedulerSpec = Annotated[Spec, Component(SCHEDULER_REGISTRY, check=SCHEDULER_REGISTRY.build)]

PUBLISHED_GRAD_CLIP = 0.01  # gradient norm that `use_grad_clip: true` stands for


def loss_name(key: str) -> str:
    """Return the name under which a loss is logged.

    `pixel_opt` -> `l_pix`, `perceptual_opt` -> `l_percep`, `x_opt` -> `l_x`.
    """
    stem = key.removesuffix("_opt")
    return "l_" + {"pixel": "pix", "perceptual": "percep"}.get(stem, stem)


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Section):
    """The optimization. Every key that ends in `_opt` is a loss; the losses are summed."""

    optim_g: OptimizerSpec = option(doc="optimizer of network_g, e.g. {type: Adam, lr: 2e-4, betas: [0.9, 0.99]}")
    optim_d: OptimizerSpec | None = option(None, "models with a discriminator: optimizer of network_d")
    scheduler: SchedulerSpec | None = option(None, "learning-rate schedule; null: constant learning rate")
    total_iter: Iterations = option(doc="number of optimizer steps in the whole run")
    warmup_iter: Annotated[int, Range(-1, 10**9)] = option(
        -1, "steps of linear warm-up; the last one has the configured learning rate; -1: none"
    )
    pixel_opt: LossSpec | None = option(None, "loss on the output, compared with the ground truth")
    perceptual_opt: LossSpec | None = option(
        None, "loss on VGG features of the output, compared with those of the ground truth"
    )
    gan_opt: LossSpec | None = option(
        None, "models with a discriminator: its loss, e.g. {type: GANLoss, gan_type: vanilla, loss_weight: 0.1}"
    )
    net_d_iters: Iterations = option(1, "models with a discriminator: it takes this many steps for each of network_g")
    net_d_init_iters: Iteration = option(0, "models with a discriminator: its steps before network_g begins to learn")
    ema_decay: Decay = option(0.0, "decay per step of the exponential moving average of the weights; 0: no average")
    accum_iter: Images = option(1, "number of batches whose gradients are averaged for each optimizer step")
    grad_clip: Positive | None = option(
        None, "maximum L2 norm of the gradient, which is scaled down when it is larger; null: no clipping"
    )
    use_grad_clip: bool = option(
        False, "the same as grad_clip: 0.01, for published files of ATD-U; grad_clip takes precedence"
    )
    amp: Literal["bf16", "fp16"] | None = option(
        None,
        "autocast precision of the forward pass and the loss. fp16: with gradient scaling, only on CUDA (elsewhere "
        "bf16); null: float32",
    )
    use_fp16: bool = option(False, "the same as amp: fp16, for published files of ATD")
    cuda_graph: bool | None = option(
        None,
        "run the training step as a CUDA graph, which is faster with the same results; only on CUDA. null: if the "
        "model allows it (otherwise the reason is logged); true: end with an error if it does not; false: never",
    )
    nan: Literal["stop", "skip"] = option(
        "stop",
        "when a loss or gradient is not finite, end the run or skip the step; in both cases the log names the files "
        "of the batch",
    )
    nan_limit: Iteration = option(10, "with nan: skip, the maximum number of skipped steps; the next one ends the run")
    mixing_augs: dict[str, Any] | None = option(
        None,
        "has no effect, with a warning: published files of ATD-U configure MixUp here, but their code never ran it",
    )

    key_patterns: ClassVar[Mapping[str, Any]] = {"*_opt": LossSpec, "optim_*": OptimizerSpec}

    def __post_init__(self) -> None:
        names: dict[str, str] = {}
        for key in self.losses:
            if (other := names.setdefault(loss_name(key), key)) != key:
                raise ValueError(f"{key}: is logged as {loss_name(key)}, like {other}; give one of them another name")
        if self.use_fp16 and self.amp == "bf16":
            raise ValueError("use_fp16: means amp: fp16, but amp is bf16; remove one of them")

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
        """The losses of the output by their key, e.g. `pixel_opt`: declared ones first, then in the order of the file.

        Not `gan_opt`, which takes scores.
        """
        return {key: self[key] for key in self if key.endswith("_opt") and key != "gan_opt"}
