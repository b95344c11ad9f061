"""The optimizers that `train.optim_g.type` can name: PyTorch's own, under their own names, and MUON."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from basicsr.config.ranges import Decay, Epsilon, Rate
from basicsr.config.registry import OPTIMIZER_REGISTRY

NEWTON_SCHULZ_STEPS = 5
NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_DTYPE = torch.bfloat16

for _name in ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "SGD", "RMSprop", "Adagrad", "Adadelta"):
    OPTIMIZER_REGISTRY.register(getattr(torch.optim, _name))


@OPTIMIZER_REGISTRY.register()
class MUON(torch.optim.Optimizer):
    """Muon for weights of two and more dimensions, AdamW for the others and for those with "first" in their name.

    Muon replaces the averaged gradient of a matrix by the nearest orthogonal matrix, or one close to it. Kernels of
    convolutions count as matrices (out, in * height * width), each of them with its own step.

    Args:
        params: (name, parameter) pairs, e.g. `net.named_parameters()`.
        lr: the two learning rates, of Muon and of AdamW.
        weight_decay: parameters shrink by this times their learning rate in each step.
        momentum: of Muon's Nesterov momentum, in [0, 1).
        betas: of AdamW.
        eps: of AdamW.
        capturable: the step can be part of a CUDA graph, AdamW's part of it fused; rates may be tensors.

    Source:
        K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; groups and defaults of ATD-U.

    Note:
        `torch.optim.Muon` (from 2.9) does the same with matrices, but takes no other parameters, and would scale the
        steps of kernels by the sides of the flattened matrix, the recipe by those of the kernel.

    Raises:
        ValueError: when an argument is out of range, or parameters come without names.
    """

    takes_names: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[tuple[str, Tensor]],
        lr: tuple[Rate, Rate],
        weight_decay: Rate = 0.01,
        momentum: Decay = 0.95,
        betas: tuple[Decay, Decay] = (0.9, 0.95),
        eps: Epsilon = 1e-10,
        capturable: bool = False,
    ) -> None:
        if not isinstance(lr, Sequence) or len(lr) != 2 or min(lr) < 0:
            raise ValueError(f"lr: must be two numbers >= 0, the rates of Muon and of AdamW, got {lr}")
        if not 0 <= momentum < 1 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"momentum, betas: must be in [0, 1), got {momentum}, {list(betas)}")
        if weight_decay < 0 or eps < 0:
            raise ValueError(f"weight_decay, eps: must be at least 0, got {weight_decay}, {eps}")
        pairs = list(params)
        if not all(isinstance(pair, tuple) for pair in pairs):
            raise ValueError("params: MUON needs (name, parameter) pairs; pass net.named_parameters()")
        muon = [parameter for name, parameter in pairs if parameter.ndim >= 2 and "first" not in name]
        others = [parameter for name, parameter in pairs if parameter.ndim < 2 or "first" in name]
        groups = [
            {"params": muon, "kind": "muon", "lr": lr[0], "momentum": momentum},
            {"params": others, "kind": "adamw", "lr": lr[1], "betas": tuple(betas), "eps": eps},
        ]
        for group in groups if capturable else ():
            group["capturable"] = True
        super().__init__(groups, {"weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; parameters without a gradient stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            learners = [parameter for parameter in group["params"] if parameter.grad is not None]
            if learners:
                (self._muon_step if group["kind"] == "muon" else self._adamw_step)(group, learners)
        return loss

    def _muon_step(self, group: dict[str, Any], learners: list[Tensor]) -> None:
        """Update matrices and kernels by Muon; those of one shape together."""
        lr, momentum = group["lr"], group["momentum"]
        for weight in learners:
            if not self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        gradients = [weight.grad for weight in learners if weight.grad is not None]
        averages = [self.state[weight]["momentum_buffer"] for weight in learners]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        directions = torch._foreach_lerp(gradients, averages, momentum)
        torch._foreach_mul_(learners, 1 - lr * group["weight_decay"])
        of_one_shape: dict[tuple[Any, ...], list[int]] = {}  # few large products are faster than many small ones
        for k, weight in enumerate(learners):
            of_one_shape.setdefault((weight.shape, weight.dtype, weight.device), []).append(k)
        for indices in of_one_shape.values():
            weights = [learners[k] for k in indices]
            updates = orthogonalize(torch.stack([directions[k].flatten(1) for k in indices]))
            height, width = weights[0].shape[-2:]
            _move(weights, updates, lr, max(1, height / width) ** 0.5)

    def _adamw_step(self, group: dict[str, Any], learners: list[Tensor]) -> None:
        """Update the other parameters by AdamW."""
        capturable = group.get("capturable", False)
        for weight in learners:
            if not self.state[weight]:
                zeros = torch.zeros_like(weight)
                step = torch.zeros((), device=weight.device) if capturable else torch.tensor(0.0)
                self.state[weight] = {"step": step, "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
        states = [self.state[weight] for weight in learners]
        adamw(
            learners,
            [weight.grad for weight in learners if weight.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=capturable or None,
            capturable=capturable,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _move(weights: list[Tensor], updates: Tensor, lr: float | Tensor, factor: float) -> None:
    """Subtract `factor * lr` times the updates (K, rows, columns) from K weights of one shape."""
    shape = weights[0].shape
    if isinstance(lr, Tensor):  # `alpha` would read it, and make the CPU wait
        scaled = updates.to(weights[0].dtype) * (-factor * lr)
        torch._foreach_add_(weights, [update.view(shape) for update in scaled])
    else:
        torch._foreach_add_(weights, [update.view(shape) for update in updates], alpha=-(lr * factor))


def orthogonalize(matrices: Tensor) -> Tensor:
    """Return matrices (K, rows, columns) with the same singular vectors and singular values of about 0.7 to 1.2.

    Values that are tiny compared with the largest stay smaller. Computed in bfloat16.

    Source:
        K. Jordan et al., see `MUON`: a quintic iteration whose coefficients raise small singular values fast.
    """
    a, b, c = NEWTON_SCHULZ_COEFFICIENTS
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if is_tall else matrices).to(NEWTON_SCHULZ_DTYPE)
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).contiguous()
