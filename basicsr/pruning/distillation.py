"""What a student learns from a teacher: distances between images, and between features of matched residual groups.

Sources: FAKD (He et al., ICIP 2020) for the affinities and for halving the weight between ground truth and teacher;
DUKD (arXiv 2309.14162) for crops of the ground truth as inputs.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from basicsr.archs import build_network
from basicsr.archs.prunable import Prunable
from basicsr.config.pruning import DistillOptions
from basicsr.engine.checkpoint import load_weights
from basicsr.losses.basic_loss import L1Loss
from basicsr.losses.fakd_loss import (
    ChannelAffinityLoss,
    InstanceAffinityLoss,
    MaskedFeatureLoss,
    SpatialAffinityLoss,
)

logger = logging.getLogger("basicsr")


def load_teacher(spec: Mapping[str, Any], path: str, param_key: str | None, device: torch.device) -> nn.Module:
    """A frozen network in evaluation.

    Raises:
        ValueError: when its state was never set: in evaluation it would then be another function of each image.
    """
    net = build_network(spec)
    load_weights(net, path, param_key)
    unset = [name for name, buffer in net.named_buffers() if name.endswith("initted") and not bool(buffer)]
    if unset:
        raise ValueError(f"path.pretrain_network_t: {path} was never trained: {', '.join(unset[:5])} are false")
    return net.to(device).eval().requires_grad_(False)


def matched_groups(kept: Sequence[int], number: int, match: str) -> list[int]:
    """For each group of the student the teacher's group whose output it should put out.

    Args:
        kept: the teacher's groups that the student inherited, rising.
        number: groups of the teacher.
        match: "absorb": the last one before the next kept group, so that each inherited group meets the inputs it
            knows; "origin": the group itself; "uniform": evenly spread.
    """
    if match == "origin":
        return list(kept)
    if match == "absorb":
        return [following - 1 for following in kept[1:]] + [number - 1]
    return [math.floor((j + 1) * number / len(kept) + 0.5) - 1 for j in range(len(kept))]


class Distillation(nn.Module):
    """The losses of a student against the ground truth and a teacher.

    Args:
        teacher: from `load_teacher`.
        pairs: (group of the student, group of the teacher) whose outputs are compared.
        total_iter: of the run, for the courses of alpha and of the feature terms.
        constant: keep alpha (a search does).
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
        """Groups of the student whose outputs `losses` needs."""
        return [mine for mine, _ in self.pairs]

    def alpha(self, iteration: int) -> float:
        """Weight of the distance to the teacher; 1 - alpha is that of the distance to the ground truth."""
        over = iteration > self.kd.alpha_off_at * self.total_iter and not self.constant
        return 0.0 if over else self.kd.alpha

    def feature_weight(self, iteration: int) -> float:
        """Factor on the feature terms."""
        end = self.kd.feature_off_at * self.total_iter
        if self.kd.feature_decay == "none" or self.constant:
            return 1.0
        return max(0.0, 1.0 - iteration / end) if end > 0 else 0.0

    def weigh_on_device(self, device: torch.device, iteration: int) -> None:
        """Put the factor on the feature terms of `iteration` where a CUDA graph of a step reads it anew each time."""
        if self._weight_on_device is None:
            self._weight_on_device = torch.zeros((), device=device)
        self._weight_on_device.fill_(self.feature_weight(iteration))

    def zoomed(self, lq: Tensor, gt: Tensor) -> Tensor | None:
        """Random crops of the ground truth of the size of `lq`: further inputs without ground truth of their own."""
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
    def ask(self, lq: Tensor, iteration: int) -> tuple[Tensor | None, dict[int, Tensor]]:
        """The teacher's output and features for a batch; None and nothing where no loss needs them."""
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
        answer: tuple[Tensor | None, Mapping[int, Tensor]],
        from_gt: Mapping[str, Tensor],
        iteration: int,
    ) -> dict[str, Tensor]:
        """All weighted terms by name.

        Args:
            output, features: of the student.
            answer: of `ask`.
            from_gt: losses against the ground truth, not yet weighted with 1 - alpha.
        """
        target, target_features = answer
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
        probability: of a change at all.
        square: whether the images may be transposed.
    """

    def __init__(self, probability: float, square: bool = True):
        kinds = 3 if square else 2
        self.kind = int(torch.randint(kinds, ())) if float(torch.rand(())) < probability else None

    def __call__(self, images: Tensor) -> Tensor:
        """The changed images; each change is its own inverse."""
        if self.kind is None:
            return images
        return images.flip(-1) if self.kind == 0 else 1 - images if self.kind == 1 else images.transpose(-1, -2)


def tapped_pairs(taps: str | Sequence[int], kept: Sequence[int], number: int, match: str) -> list[tuple[int, int]]:
    """(group of the student, group of the teacher) for `kd.taps`.

    Raises:
        ValueError: for a tap that is no group of the student.
    """
    pairs = list(enumerate(matched_groups(kept, number, match)))
    if taps == "all":
        return pairs
    if taps == "last":
        return pairs[-1:]
    wrong = [tap for tap in taps if not 0 <= cast(int, tap) < len(pairs)]
    if wrong:
        raise ValueError(f"kd.taps: must be groups of the student, 0 to {len(pairs) - 1}, got {wrong}")
    return [pairs[cast(int, tap)] for tap in taps]


def group_channels(net: nn.Module, device: torch.device) -> tuple[int, int, int]:
    """(C, h, w) of a group's output for an input of 32x32 px."""
    net_was_training = net.training
    with torch.no_grad():
        _, features = net.eval()(torch.zeros(1, 3, 32, 32, device=device), taps=[0])
    net.train(net_was_training)
    channels, height, width = features[0].shape[1:]
    return channels, height, width


def check_teacher(student: nn.Module, teacher: nn.Module, needs_groups: bool) -> None:
    """Refuse a teacher that the student cannot be compared with.

    Raises:
        ValueError: for another scale, or a network without groups where features are compared.
    """
    if getattr(teacher, "upscale", None) != getattr(student, "upscale", None):
        raise ValueError(
            f"network_t.upscale: is {getattr(teacher, 'upscale', None)}, but network_g has "
            f"{getattr(student, 'upscale', None)}; teacher and student must have the same scale"
        )
    for key, net in (("network_t", teacher), ("network_g", student)):
        if needs_groups and not isinstance(net, Prunable):
            raise ValueError(f"{key}: {type(net).__name__} gives no features of groups; set the weights in kd to 0")


def check_channels(kd: DistillOptions, student: int, teacher: int) -> None:
    """Refuse feature terms that need equally many channels in both networks where they are not.

    Raises:
        ValueError: naming the term and both numbers.
    """
    for name, way_out in (("ca", "use kd.sa or kd.ia"), ("feat", "set kd.feat.adapter: true")):
        adapted = name == "feat" and kd.feat.adapter
        if kd[name].weight > 0 and student != teacher and not adapted:
            raise ValueError(
                f"kd.{name}: the groups of network_g have {student} channels, those of network_t {teacher}; {way_out}"
            )
