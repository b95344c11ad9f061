"""Losses between feature maps of a student and its teacher: affinities (FAKD), masked squares (TinyFusion).

Each takes two lists of maps ("taps") and returns one scalar: `loss_weight` times the sum over taps of the mean over
entries and batch. Only the student gets a gradient. Affinities are invariant to the scale of the features, so their
weight is relative to that of the image loss. FAKD weights them by 10 together with an L1 of images in 0..255; for
images in [0, 1], as here, the same balance is 10 / 255 = 0.039.

Shapes: B batch, C channels, H x W map size, n = H*W positions, R rows of an n x n affinity.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from basicsr.archs.layers.tokens import full_precision
from basicsr.config.ranges import Channels, Pixels, Positive, Range, Weight
from basicsr.config.registry import LOSS_REGISTRY

AffinityMode = Literal["exact", "gram"]
MIN_NORM = 1e-8  # smallest norm that features are divided by


class FeatureLoss(nn.Module):
    """A distance between the feature maps of two networks, summed over taps; subclasses define the distance.

    Computed without autocast, in float32 or, for float64 maps, float64.

    Args:
        loss_weight: factor on the result.

    Shape:
        student, teacher: lists of the same length; map k is (B, C, H, W), with equal B, H, W in both. output: scalar.

    Raises:
        ValueError: for no taps, different numbers of taps, or maps that cannot be compared.
    """

    same_channels = False  # True: C must be equal, too

    def __init__(self, *, loss_weight: Weight = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean over entries and batch of the difference of one tap; scalar >= 0."""
        raise NotImplementedError

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Return the weighted sum of the distances of all taps."""
        name = type(self).__name__
        if len(student) != len(teacher) or not student:
            raise ValueError(
                f"{name}: student and teacher need equally many taps, at least one, got {len(student)} and "
                f"{len(teacher)}; match the taps of the two networks"
            )
        total = student[0].new_zeros((), dtype=_at_least_float32(student[0]).dtype)
        for tap, (of_student, of_teacher) in enumerate(zip(student, teacher, strict=True)):
            try:
                self.check(of_student, of_teacher)
            except ValueError as error:
                shapes = f"got student {tuple(of_student.shape)} and teacher {tuple(of_teacher.shape)}"
                raise ValueError(f"{name}: tap {tap}: {error}, {shapes}") from error
            with full_precision(of_student.device):
                total = total + self.distance(_at_least_float32(of_student), _at_least_float32(of_teacher.detach()))
        return self.loss_weight * total

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Check that two maps can be compared.

        Raises:
            ValueError: with the violated condition; the caller adds the tap and both shapes.
        """
        if student.shape[0] != teacher.shape[0] or student.shape[2:] != teacher.shape[2:]:
            raise ValueError("batch, height and width must be equal")
        if self.same_channels and student.shape[1] != teacher.shape[1]:
            raise ValueError("channels must be equal without an adapter (spatial and instance affinity take any)")


@LOSS_REGISTRY.register()
class SpatialAffinityLoss(FeatureLoss):
    """Difference of the cosines between all pairs of positions: A = F~^T F~, columns of F (C x n) of unit length.

    Args:
        loss_weight: factor on the result; 0.04 has the effect of FAKD's 10, see the file's header.
        mode: "exact" is the mean of |A_S - A_T| over n x n entries; "gram" that of its square, by C x C matrices only,
            with a much smaller value that needs another weight.
        chunk: exact: rows of A in memory at a time, >= 1. Memory is O(B * chunk * n); the result does not change.
        pool: side in pixels of the squares that both maps are averaged over first, >= 1; divides the work by pool^4.
        anchors: exact: number of compared rows, drawn for each tap and step, the same for both networks; 0: all. The
            expectation is that of all rows.

    Shape:
        As in `FeatureLoss`; the networks may differ in C.

    Raises:
        ValueError: for an unknown mode or a number out of its range.

    Source: He et al., FAKD, ICIP 2020: spatial affinity, L1, summed over taps. Note: pool, anchors and gram are ours.
    """

    def __init__(
        self,
        *,
        loss_weight: Weight = 1.0,
        mode: AffinityMode = "exact",
        chunk: Annotated[int, Range(1, 10**6)] = 512,
        pool: Pixels = 1,
        anchors: Annotated[int, Range(0, 10**6)] = 0,
    ) -> None:
        super().__init__(loss_weight=loss_weight)
        if mode not in get_args(AffinityMode):
            raise ValueError(f"mode: must be one of {', '.join(get_args(AffinityMode))}, got {mode!r}")
        for key, value, least in (("chunk", chunk, 1), ("pool", pool, 1), ("anchors", anchors, 0)):
            if value < least:
                raise ValueError(f"{key}: must be at least {least}, got {value}")
        if mode == "gram" and anchors:
            raise ValueError(f"anchors: must be 0 in mode gram, got {anchors}; gram has no rows to draw")
        self.mode = mode
        self.chunk = chunk
        self.pool = pool
        self.anchors = anchors

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean absolute (exact) or squared (gram) difference of the affinities; scalar >= 0."""
        student, teacher = self._columns(student), self._columns(teacher)
        if self.mode == "gram":
            return _mean_squared_difference(student, teacher)
        positions = student.shape[2]
        rows = torch.randperm(positions)[: self.anchors].to(student.device) if self.anchors else None
        return _MeanAbsoluteDifference.apply(student, teacher, rows, self.chunk)

    def _columns(self, features: Tensor) -> Tensor:
        """Return the features of each position, of unit length: (B, C, H, W) to (B, C, n)."""
        if self.pool > 1:
            features = F.avg_pool2d(features, self.pool, ceil_mode=True)  # windows at the border may be smaller
        return F.normalize(rearrange(features, "b c h w -> b c (h w)"), dim=1, eps=MIN_NORM)


@LOSS_REGISTRY.register()
class ChannelAffinityLoss(FeatureLoss):
    """Mean of |A_S - A_T| with the cosines between channels: A = F~ F~^T, rows of F (C x n) of unit length.

    Args, shapes and errors: see `FeatureLoss`; both networks need the same C.

    Source: He et al., FAKD, ICIP 2020.
    """

    same_channels = True

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean absolute difference of the (B, C, C) affinities; scalar >= 0."""
        rows_s, rows_t = (
            F.normalize(rearrange(features, "b c h w -> b c (h w)"), dim=2, eps=MIN_NORM)
            for features in (student, teacher)
        )
        return (rows_s @ _transposed(rows_s) - rows_t @ _transposed(rows_t)).abs().mean()


@LOSS_REGISTRY.register()
class InstanceAffinityLoss(FeatureLoss):
    """Mean of |A_S - A_T| with the products between images: A = F F^T (F: B x CHW), each row of A of unit length.

    Args, shapes and errors: see `FeatureLoss`; the networks may differ in C. A batch of one has no pairs: 0.

    Source: He et al., FAKD, ICIP 2020.
    """

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean absolute difference of the (B, B) affinities; scalar >= 0."""
        if len(student) == 1:
            return 0.0 * student.sum()  # keeps the student in the graph, so that backward() works
        images = (rearrange(features, "b c h w -> b (c h w)") for features in (student, teacher))
        a_s, a_t = (F.normalize(x @ x.T, dim=1, eps=MIN_NORM) for x in images)
        return (a_s - a_t).abs().mean()


@LOSS_REGISTRY.register()
class MaskedFeatureLoss(FeatureLoss):
    """Mean square of the difference of the features, where neither network has an outlier.

    An outlier lies more than `sigma` deviations from the mean of its network's entries in this tap and batch. It sets
    the entry to 0 in both networks; the mean is over all entries.

    Args:
        loss_weight: factor on the result.
        sigma: number of deviations, > 0.
        student_channels: C of the student, for a trained 1x1 convolution (`adapter`) to the teacher's C, which starts
            as the identity on the common channels; None: no adapter.
        teacher_channels: C of the teacher, or None.

    Shape:
        As in `FeatureLoss`; without adapter both networks need the same C.

    Raises:
        ValueError: when sigma is not above 0, or only one of the two numbers of channels is given.

    Source: Fang et al., TinyFusion, CVPR 2025 (arXiv 2412.01199), masked knowledge distillation.
    """

    def __init__(
        self,
        *,
        loss_weight: Weight = 1.0,
        sigma: Positive = 2.0,
        student_channels: Channels | None = None,
        teacher_channels: Channels | None = None,
    ) -> None:
        super().__init__(loss_weight=loss_weight)
        if sigma <= 0:
            raise ValueError(f"sigma: must be above 0, got {sigma}; nearly every entry would be an outlier")
        if (student_channels is None) != (teacher_channels is None):
            raise ValueError(
                f"student_channels, teacher_channels: an adapter needs both, got {student_channels} and "
                f"{teacher_channels}; leave both out for none"
            )
        self.sigma = sigma
        self.adapter: nn.Conv2d | None = None
        if student_channels is not None and teacher_channels is not None:
            self.adapter = nn.Conv2d(student_channels, teacher_channels, 1)
            nn.init.dirac_(self.adapter.weight)
            nn.init.zeros_(self.adapter.get_parameter("bias"))
        self.same_channels = self.adapter is None

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """As in `FeatureLoss`; with an adapter, C must match it."""
        super().check(student, teacher)
        if self.adapter is not None:
            ends = (self.adapter.in_channels, self.adapter.out_channels)
            if (student.shape[1], teacher.shape[1]) != ends:
                raise ValueError(f"the adapter is for {ends[0]} (student) and {ends[1]} (teacher) channels")

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean square of the difference without outliers; scalar >= 0."""
        if self.adapter is not None:
            student = self.adapter(student)
        outlier = self._outliers(student.detach()) | self._outliers(teacher)
        return (student - teacher).masked_fill(outlier, 0.0).square().mean()

    def _outliers(self, features: Tensor) -> Tensor:
        variance, mean = torch.var_mean(features, correction=0)
        return (features - mean).abs() > self.sigma * variance.sqrt()


class _MeanAbsoluteDifference(torch.autograd.Function):
    """Mean of |S_R^T S - T_R^T T| over R x n entries and the batch, a chunk of rows at a time.

    The gradient consists of the signs of the same entries, so the forward pass computes it with them. Nothing of size
    R x n is stored or recomputed; checkpointing the chunks instead takes more than twice the time.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, rows: Tensor | None, chunk: int) -> Tensor:
        """Return the mean, and keep its gradient for `backward`.

        Args:
            ctx: of autograd.
            student, teacher: (B, C, n) and (B, C', n).
            rows: (R,) distinct indices of positions; None: all.
            chunk: rows at a time.
        """
        s_rows, t_rows = (x if rows is None else x[:, :, rows] for x in (student, teacher))
        batch, _, count = s_rows.shape
        needs_gradient = ctx.needs_input_grad[0]
        by_rows, by_columns = torch.empty_like(s_rows), torch.zeros_like(student)
        total = student.new_zeros(())
        for start in range(0, count, chunk):
            part = slice(start, start + chunk)
            difference = _transposed(s_rows[:, :, part]) @ student
            difference -= _transposed(t_rows[:, :, part]) @ teacher  # of equal shape: exactly 0 where S = T
            if needs_gradient:
                sign = difference.sign()
                by_rows[:, :, part] = student @ _transposed(sign)
                if rows is not None:
                    by_columns += s_rows[:, :, part] @ sign
            total += difference.abs_().sum()
        entries = batch * count * student.shape[2]
        if needs_gradient:
            # with all rows, A is symmetric, and its columns have the gradient of its rows
            gradient = 2 * by_rows if rows is None else by_columns.index_add_(2, rows, by_rows)
            ctx.save_for_backward(gradient.div_(entries))
        return total / entries

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient in `student`."""
        (gradient,) = ctx.saved_tensors
        return grad_output * gradient, None, None, None


def _mean_squared_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean of (S^T S - T^T T)^2 over n x n entries and the batch, from (B, C, n) and (B, C', n).

    Equals (|S S^T|^2 + |T T^T|^2 - 2 |S T^T|^2) / n^2 in Frobenius norms. The three terms nearly cancel, so they are
    computed in float64 if the device has it, which also avoids TF32 in both passes.
    """
    s, t = (x if x.device.type == "mps" else x.double() for x in (student, teacher))
    difference = (_squared_norm(s, s) + _squared_norm(t, t) - 2 * _squared_norm(s, t)).clamp_min(0.0)
    return (difference.mean() / s.shape[2] ** 2).to(student.dtype)


def _squared_norm(x: Tensor, y: Tensor) -> Tensor:
    """Return |X Y^T|^2 (Frobenius) of each image, (B,)."""
    return (x @ _transposed(y)).square().sum((1, 2))


def _transposed(x: Tensor) -> Tensor:
    """Return the matrices of a batch transposed."""
    return rearrange(x, "b i j -> b j i")


def _at_least_float32(x: Tensor) -> Tensor:
    """Return `x`, float16 and bfloat16 as float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
