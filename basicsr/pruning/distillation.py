"""Losses of a student under a teacher: distances between images, and between features of matched residual groups.

Sources: FAKD (He et al., ICIP 2020) for the affinities and for halving the weight between ground truth and teacher;
DUKD (arXiv 2309.14162) for crops of the ground truth as inputs.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from basicsr.config.pruning import DistillOptions
from basicsr.losses.basic_loss import L1Loss
from basicsr.losses.fakd_loss import (
    ChannelAffinityLoss,
    InstanceAffinityLoss,
    MaskedFeatureLoss,
    SpatialAffinityLoss,
)

FEATURE_TERMS = ("sa", "ca", "ia", "feat")
"""Keys of `kd` whose terms compare features."""


def has_feature_terms(kd: DistillOptions) -> bool:
    """Return whether a term that compares features has a weight."""
    return any(kd[name].weight > 0 for name in FEATURE_TERMS)


class Distillation(nn.Module):
    """The losses of a student against the ground truth and a teacher.

    Args:
        kd: section `kd` of the options.
        teacher: from `load_teacher`.
        pairs: (group of the student, group of the teacher) whose outputs are compared.
        total_iter: of the run, for the schedules of alpha and of the feature terms.
        channels: of the groups of student and teacher, for an adapter.
        constant: keep alpha and the weight of the feature terms constant, as in a search.
    """

    def __init__(
        self,
        kd: DistillOptions,
        teacher: nn.Module,
        pairs: Sequence[tuple[int, int]],
        total_iter: int,
        channels: tuple[int, int] | None = None,
        constant: bool = False,
    ):
        super().__init__()
        self.kd = kd
        self.total_iter = total_iter
        self.constant = constant
        self._weight_on_device: Tensor | None = None
        self._teacher = (teacher,)  # not a submodule: .train() on it would move its state
        self.to_teacher = L1Loss()
        student, other = channels if kd.feat.adapter and channels else (None, None)
        sa = kd.sa
        terms: dict[str, nn.Module] = {
            "sa": SpatialAffinityLoss(
                loss_weight=sa.weight, mode=sa.mode, chunk=sa.chunk, pool=sa.pool, anchors=sa.anchors
            ),
            "ca": ChannelAffinityLoss(loss_weight=kd.ca.weight),
            "ia": InstanceAffinityLoss(loss_weight=kd.ia.weight),
            "feat": MaskedFeatureLoss(
                loss_weight=kd.feat.weight, sigma=kd.feat.sigma, student_channels=student, teacher_channels=other
            ),
        }
        self.features = nn.ModuleDict({name: term for name, term in terms.items() if kd[name].weight > 0})
        self.pairs = list(pairs) if self.features else []

    @property
    def teacher(self) -> nn.Module:
        """The frozen network."""
        return self._teacher[0]

    @property
    def student_taps(self) -> list[int]:
        """Groups of the student whose outputs `losses` needs, 0-based."""
        return [mine for mine, _ in self.pairs]

    def alpha(self, iteration: int) -> float:
        """Return the weight of the distance to the teacher; 1 - alpha is that of the distance to the ground truth."""
        over = iteration > self.kd.alpha_off_at * self.total_iter and not self.constant
        return 0.0 if over else self.kd.alpha

    def feature_weight(self, iteration: int) -> float:
        """Return the factor on the feature terms, in [0, 1]."""
        end = self.kd.feature_off_at * self.total_iter
        if self.kd.feature_decay == "none" or self.constant:
            return 1.0
        return max(0.0, 1.0 - iteration / end) if end > 0 else 0.0

    def put_weight_on_device(self, device: torch.device, iteration: int) -> None:
        """Write the factor on the feature terms into a tensor on the device, which a replayed CUDA graph reads."""
        if self._weight_on_device is None:
            self._weight_on_device = torch.zeros((), device=device)
        self._weight_on_device.fill_(self.feature_weight(iteration))

    def zoomed_inputs(self, lq: Tensor, gt: Tensor) -> Tensor | None:
        """Return random crops of the ground truth of the size of `lq`: more inputs, without a ground truth.

        Shape:
            lq: (B, 3, h, w). gt: (B, 3, H, W). output: (crops * B, 3, h, w); None where `kd.zoom` is off.
        """
        if self.kd.zoom.weight == 0:
            return None
        height, width = lq.shape[2:]
        crops = []
        for _ in range(self.kd.zoom.crops):
            top = int(torch.randint(gt.shape[2] - height + 1, ()))
            left = int(torch.randint(gt.shape[3] - width + 1, ()))
            crops.append(gt[:, :, top : top + height, left : left + width])
        return torch.cat(crops)

    @torch.no_grad()
    def teacher_targets(self, lq: Tensor, iteration: int) -> tuple[Tensor | None, dict[int, Tensor]]:
        """Return the teacher's output and tapped features for a batch; None and {} where no loss needs them.

        Raises:
            RuntimeError: when the teacher is in training mode.
        """
        if self.teacher.training:
            raise RuntimeError("the teacher is in training mode, which moves its state; keep it in evaluation")
        taps = [theirs for _, theirs in self.pairs] if self.feature_weight(iteration) > 0 else []
        if self.alpha(iteration) == 0 and not taps and self.kd.zoom.weight == 0:
            return None, {}
        if taps:
            return self.teacher(lq, taps=taps)
        return self.teacher(lq), {}

    def losses(
        self,
        output: Tensor,
        features: Mapping[int, Tensor],
        targets: tuple[Tensor | None, Mapping[int, Tensor]],
        from_gt: Mapping[str, Tensor],
        iteration: int,
    ) -> dict[str, Tensor]:
        """Return all weighted terms by name.

        Args:
            output, features: of the student.
            targets: from `teacher_targets`.
            from_gt: losses against the ground truth, not yet weighted with 1 - alpha.
            iteration: 1-based, for the schedules.
        """
        target, target_features = targets
        alpha, weight = self.alpha(iteration), self.feature_weight(iteration)
        result = {name: (1 - alpha) * loss for name, loss in from_gt.items()}
        if target is not None and alpha > 0:
            result["l_ts"] = alpha * self.to_teacher(output.float(), target.float())
        if weight > 0 and self.pairs:
            mine = [features[i] for i, _ in self.pairs]
            theirs = [target_features[j] for _, j in self.pairs]
            factor = weight if self._weight_on_device is None else self._weight_on_device
            for name, term in self.features.items():
                result[f"l_{name}"] = factor * term(mine, theirs)
        return result


class Transform:
    """A random invertible change of images: a flip, a transposition or the inversion of colours (DUKD).

    Args:
        probability: of any change.
        square: whether the images may be transposed.
    """

    def __init__(self, probability: float, square: bool = True):
        kinds = 3 if square else 2
        self.kind = int(torch.randint(kinds, ())) if float(torch.rand(())) < probability else None

    def __call__(self, images: Tensor) -> Tensor:
        """Return the changed images; each change is its own inverse."""
        if self.kind is None:
            return images
        return images.flip(-1) if self.kind == 0 else 1 - images if self.kind == 1 else images.transpose(-1, -2)
