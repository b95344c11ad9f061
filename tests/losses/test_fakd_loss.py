import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from basicsr.errors import OptionError
from basicsr.losses import build_loss
from basicsr.losses.fakd_loss import (
    ChannelAffinityLoss,
    InstanceAffinityLoss,
    MaskedFeatureLoss,
    SpatialAffinityLoss,
)

ALL = [SpatialAffinityLoss, ChannelAffinityLoss, InstanceAffinityLoss, MaskedFeatureLoss]
AFFINITIES = ALL[:3]
SPATIAL = [{}, {"chunk": 5}, {"anchors": 4}, {"anchors": 7, "chunk": 3}, {"pool": 2}, {"mode": "gram"}]


def maps(*shape, dtype=torch.float64):
    """Maps of a student, which want a gradient, and of a teacher."""
    return torch.randn(shape, dtype=dtype, requires_grad=True), torch.randn(shape, dtype=dtype)


def norm(vector):
    return math.sqrt(sum(v * v for v in vector))


def dot(u, v):
    return sum(a * b for a, b in zip(u, v, strict=True))


def spatial(image):
    """(C, H, W) to the n x n cosines of positions, one by one."""
    columns = image.flatten(1).T.tolist()
    return [[dot(u, v) / norm(u) / norm(v) for v in columns] for u in columns]


def channel(image):
    rows = image.flatten(1).tolist()
    return [[dot(u, v) / norm(u) / norm(v) for v in rows] for u in rows]


def instance(batch):
    images = batch.flatten(1).tolist()
    products = [[dot(u, v) for v in images] for u in images]
    return [[entry / norm(row) for entry in row] for row in products]


def mean_gap(a, b, power=1):
    gaps = [abs(x - y) ** power for row, other in zip(a, b, strict=True) for x, y in zip(row, other, strict=True)]
    return sum(gaps) / len(gaps)


def differentiable_spatial(student, teacher):
    """The n x n matrices as FAKD writes them, for gradients."""
    a, b = (torch.einsum("bci,bcj->bij", x, x) for x in (F.normalize(f.flatten(2), dim=1) for f in (student, teacher)))
    return (a - b).abs().mean()


def gradient(loss, student, teacher):
    return torch.autograd.grad(loss([student], [teacher]), student)[0]


class LargestTensor(TorchDispatchMode):
    """The most entries that any tensor has that an operation returns."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.numel())
        return out


def test_affinities_equal_a_double_loop():
    student, teacher = maps(2, 3, 2, 4)
    pairs = list(zip(student.detach(), teacher, strict=True))
    by_images = [mean_gap(spatial(s), spatial(t)) for s, t in pairs]
    assert SpatialAffinityLoss()([student], [teacher]).item() == pytest.approx(sum(by_images) / 2, rel=1e-12)
    squares = [mean_gap(spatial(s), spatial(t), power=2) for s, t in pairs]
    gram = SpatialAffinityLoss(mode="gram")
    assert gram([student], [teacher]).item() == pytest.approx(sum(squares) / 2, rel=1e-12)
    by_images = [mean_gap(channel(s), channel(t)) for s, t in pairs]
    assert ChannelAffinityLoss()([student], [teacher]).item() == pytest.approx(sum(by_images) / 2, rel=1e-12)
    expected = mean_gap(instance(student.detach()), instance(teacher))
    assert InstanceAffinityLoss()([student], [teacher]).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("chunk", [1, 5, 12, 512])
def test_chunks_change_neither_value_nor_gradient(chunk):
    student, teacher = maps(2, 3, 3, 4)
    expected = differentiable_spatial(student, teacher)
    loss = SpatialAffinityLoss(chunk=chunk)([student], [teacher])
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    grads = [torch.autograd.grad(value, student)[0] for value in (loss, expected)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("options", [{}, {"chunk": 4}, {"pool": 2}, {"mode": "gram"}])
def test_gradients_of_spatial_affinity(options):
    student, teacher = maps(2, 3, 3, 3)
    gradcheck(lambda s: SpatialAffinityLoss(**options)([s], [teacher]), student)


@pytest.mark.parametrize("loss", ALL[1:])
def test_gradients(loss):
    student, teacher = maps(3, 3, 2, 2)
    gradcheck(lambda s: loss()([s], [teacher]), student)


def test_gradient_does_not_depend_on_memory_format():
    student, teacher = maps(2, 3, 3, 4)
    expected = gradient(SpatialAffinityLoss(), student, teacher)
    turned = student.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    found = gradient(SpatialAffinityLoss(chunk=5), turned, teacher.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)


def test_value_without_gradient():
    student, teacher = maps(2, 3, 3, 4)
    loss = SpatialAffinityLoss(chunk=5)
    with torch.no_grad():
        value = loss([student], [teacher])
    assert not value.requires_grad and value.item() == pytest.approx(loss([student], [teacher]).item(), rel=1e-14)


def test_pool_averages_the_features_first():
    student, teacher = maps(2, 3, 4, 6)
    exact = SpatialAffinityLoss()
    assert torch.equal(SpatialAffinityLoss(pool=1)([student], [teacher]), exact([student], [teacher]))
    small = [F.avg_pool2d(x, 2) for x in (student, teacher)]
    for mode in ("exact", "gram"):
        pooled = SpatialAffinityLoss(pool=2, mode=mode)([student], [teacher])
        torch.testing.assert_close(pooled, SpatialAffinityLoss(mode=mode)([small[0]], [small[1]]))


def test_pool_keeps_positions_that_do_not_fill_a_square():
    student, teacher = maps(1, 3, 3, 3)
    small = []
    for x in (student, teacher):
        corners = [x[:, :, i : i + 2, j : j + 2].mean((2, 3)) for i in (0, 2) for j in (0, 2)]
        small.append(torch.stack(corners, 2).unflatten(2, (2, 2)))
    expected = SpatialAffinityLoss()([small[0]], [small[1]])
    torch.testing.assert_close(SpatialAffinityLoss(pool=2)([student], [teacher]), expected)
    assert SpatialAffinityLoss(pool=8)([student], [2 * student.detach()]).item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(
    "loss", [*(SpatialAffinityLoss(**options) for options in SPATIAL), *(loss() for loss in ALL[1:])]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_when_student_equals_teacher(loss, dtype):
    student = torch.randn(2, 5, 4, 4, dtype=dtype, requires_grad=True)
    teacher = student.detach().clone()
    value = loss([student], [teacher])
    assert 0 <= value.item() <= torch.finfo(torch.float64).eps
    assert torch.autograd.grad(value, student)[0].abs().max() <= 1e-7  # not the signs of rounding errors


@pytest.mark.parametrize("loss", AFFINITIES)
def test_affinities_ignore_scale(loss):
    student, teacher = maps(2, 3, 3, 4)
    expected = loss()([student], [teacher])
    torch.testing.assert_close(loss()([student * 255], [teacher * 1e-3]), expected, rtol=1e-9, atol=0)


def test_spatial_and_instance_affinity_compare_different_widths():
    student, teacher = maps(2, 3, 2, 3)
    wide = torch.cat([teacher, torch.zeros(2, 2, 2, 3)], 1)  # channels of zeros change no product
    for loss in (SpatialAffinityLoss(chunk=4), SpatialAffinityLoss(mode="gram"), InstanceAffinityLoss()):
        torch.testing.assert_close(loss([student], [wide]), loss([student], [teacher]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", ALL)
def test_taps_are_summed_and_weighted(loss):
    (s1, t1), (s2, t2) = maps(2, 3, 4, 4), maps(2, 5, 2, 3)
    expected = 0.5 * (loss()([s1], [t1]) + loss()([s2], [t2]))
    torch.testing.assert_close(loss(loss_weight=0.5)([s1, s2], [t1, t2]), expected)
    assert expected.shape == () and expected > 0


@pytest.mark.parametrize("loss", ALL)
def test_only_the_student_gets_a_gradient(loss):
    student, teacher = maps(2, 3, 4, 4)
    teacher.requires_grad_()
    loss()([student], [teacher]).backward()
    assert student.grad.abs().sum() > 0 and teacher.grad is None


def test_one_image_has_no_pairs():
    student, teacher = torch.zeros(1, 3, 4, 4, requires_grad=True), torch.ones(1, 3, 4, 4)
    loss = InstanceAffinityLoss()([student], [teacher])
    loss.backward()
    assert loss.item() == 0 and torch.equal(student.grad, torch.zeros_like(student))


def test_all_anchors_equal_exact():
    student, teacher = maps(2, 3, 3, 4)
    exact, drawn = SpatialAffinityLoss(), SpatialAffinityLoss(anchors=12, chunk=5)
    torch.testing.assert_close(drawn([student], [teacher]), exact([student], [teacher]), rtol=1e-12, atol=0)
    expected = gradient(exact, student, teacher)
    torch.testing.assert_close(gradient(drawn, student, teacher), expected, rtol=1e-9, atol=1e-14)
    more = SpatialAffinityLoss(anchors=500)([student], [teacher])
    torch.testing.assert_close(more, exact([student], [teacher]), rtol=1e-12, atol=0)


def test_anchors_are_unbiased(monkeypatch):
    student, teacher = maps(2, 3, 3, 4)
    order = torch.randperm(12)
    turns = iter(range(12))
    monkeypatch.setattr(torch, "randperm", lambda n: order.roll(next(turns)))  # each row is first once
    loss = SpatialAffinityLoss(anchors=2, chunk=1)
    values = torch.stack([loss([student], [teacher]) for _ in range(12)])
    exact = SpatialAffinityLoss()([student], [teacher])
    assert values.std() > 0.01 * exact
    torch.testing.assert_close(values.mean(), exact, rtol=1e-12, atol=0)
    grads = [torch.autograd.grad(value, student)[0] for value in (values.mean(), exact)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-14)


def test_mean_over_draws_of_anchors_approaches_exact():
    student, teacher = maps(2, 3, 4, 4)
    loss = SpatialAffinityLoss(anchors=4)
    with torch.no_grad():
        values = torch.stack([loss([student], [teacher]) for _ in range(400)])
    exact = SpatialAffinityLoss()([student], [teacher])
    assert abs(values.mean() - exact) < 4 * values.std() / 20
    torch.manual_seed(5)
    first = loss([student], [teacher])
    torch.manual_seed(5)
    assert torch.equal(loss([student], [teacher]), first)


@pytest.mark.parametrize("options", [{}, {"anchors": 32}])
def test_no_tensor_exceeds_a_chunk_of_rows(options):
    student, teacher = maps(1, 2, 8, 8)
    for chunk in (4, 16):
        with LargestTensor() as largest:
            SpatialAffinityLoss(chunk=chunk, **options)([student], [teacher]).backward()
        assert largest.entries == max(chunk * 64, student.numel())


def test_gram_needs_no_matrix_of_positions():
    student, teacher = maps(1, 2, 8, 8)
    with LargestTensor() as largest:
        SpatialAffinityLoss(mode="gram")([student], [teacher]).backward()
    assert largest.entries <= student.numel()


def test_gram_resolves_close_features_in_float32():
    teacher = torch.randn(2, 8, 8, 8)
    student = teacher + 1e-3 * torch.randn_like(teacher)
    a, b = (
        torch.einsum("bci,bcj->bij", x, x)
        for x in (F.normalize(f.double().flatten(2), dim=1) for f in (student, teacher))
    )
    found = SpatialAffinityLoss(mode="gram")([student], [teacher])
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx((a - b).square().mean().item(), rel=1e-3)


def test_gram_is_never_negative():
    teacher = torch.randn(1, 8, 8, 8)
    loss = SpatialAffinityLoss(mode="gram")
    for size in (1e-9, 1e-8, 1e-7, 1e-6):
        for _ in range(10):
            assert loss([teacher + size * torch.randn_like(teacher)], [teacher]) >= 0


@pytest.mark.parametrize(
    "loss", [*(SpatialAffinityLoss(**options) for options in ({}, {"mode": "gram"})), *(loss() for loss in ALL[1:])]
)
def test_autocast_does_not_round(loss):
    student, teacher = maps(2, 3, 4, 4, dtype=torch.float32)
    expected = loss([student], [teacher])
    with torch.autocast("cpu", torch.bfloat16):
        found = loss([student], [teacher])
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    grads = [torch.autograd.grad(value, student)[0] for value in (found, expected)]
    assert torch.equal(*grads)
    half = loss([student.bfloat16()], [teacher.bfloat16()])
    rounded = loss([student.bfloat16().float()], [teacher.bfloat16().float()])
    assert half.dtype == torch.float32 and torch.equal(half, rounded)


def test_positions_without_features_are_harmless():
    student, teacher = maps(1, 3, 2, 2, dtype=torch.float32)
    with torch.no_grad():
        student[:, :, 0, 0] = 0
    for loss in (SpatialAffinityLoss(), SpatialAffinityLoss(mode="gram")):
        found = gradient(loss, student, teacher)
        assert torch.isfinite(found).all()


def test_masked_features_by_hand():
    """One outlier in each network: of the student at entry 0, of the teacher at entry 9."""
    student, teacher = torch.zeros(1, 1, 2, 5), torch.ones(1, 1, 2, 5)
    student[0, 0, 0, 0] = 10.0  # mean 1, deviation 3: 3 deviations off, the others 1/3
    teacher[0, 0, 1, 4] = -19.0  # mean -1, deviation 6: 3 deviations off, the others 1/3
    student.requires_grad_()
    loss = MaskedFeatureLoss()([student], [teacher])
    loss.backward()
    assert loss.item() == pytest.approx(8 / 10)  # eight differences of 1, two entries left out, ten counted
    expected = torch.tensor([0.0, *[-0.2] * 8, 0.0]).view(1, 1, 2, 5)
    torch.testing.assert_close(student.grad, expected)
    all_in = MaskedFeatureLoss(sigma=3.1)([student], [teacher])
    assert all_in.item() == pytest.approx((8 + 9**2 + 19**2) / 10)
    assert MaskedFeatureLoss(loss_weight=2.0, sigma=0.1)([student], [teacher]).item() == 0


def test_adapter_is_trained_from_the_identity():
    student, teacher = maps(2, 3, 4, 4)
    same = MaskedFeatureLoss(student_channels=3, teacher_channels=3).double()
    assert torch.equal(same([student], [teacher]), MaskedFeatureLoss()([student], [teacher]))
    loss = MaskedFeatureLoss(sigma=1e6, student_channels=3, teacher_channels=5).double()
    target = torch.randn(2, 5, 4, 4, dtype=torch.float64)
    torch.nn.init.normal_(loss.adapter.weight)
    adapted = F.conv2d(student, loss.adapter.weight, loss.adapter.bias)
    value = loss([student], [target])
    torch.testing.assert_close(value, (adapted - target).square().mean())
    value.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in loss.parameters())
    assert len(list(loss.parameters())) == 2 and not list(MaskedFeatureLoss().parameters())


@pytest.mark.parametrize("loss", ALL)
def test_refuses_maps_that_cannot_be_compared(loss):
    x = torch.randn(2, 3, 4, 4)
    name = loss.__name__
    with pytest.raises(ValueError, match=f"{name}: student and teacher need equally many taps, .* got 2 and 1"):
        loss()([x, x], [x])
    with pytest.raises(ValueError, match="at least one, got 0 and 0"):
        loss()([], [])
    place = rf"{name}: tap 1: batch, height and width must be equal, got student \(2, 3, 4, 4\) and teacher "
    with pytest.raises(ValueError, match=place + r"\(2, 3, 2, 8\)"):
        loss()([x, x], [x, x.reshape(2, 3, 2, 8)])
    with pytest.raises(ValueError, match=place + r"\(1, 3, 4, 4\)"):
        loss()([x, x], [x, x[:1]])


@pytest.mark.parametrize("loss", [ChannelAffinityLoss, MaskedFeatureLoss])
def test_refuses_different_widths(loss):
    x = torch.randn(2, 3, 4, 4)
    message = (
        rf"{loss.__name__}: tap 0: channels must be equal .*, got student \(2, 2, 4, 4\) and teacher \(2, 3, 4, 4\)"
    )
    with pytest.raises(ValueError, match=message):
        loss()([x[:, :2]], [x])


def test_refuses_bad_options():
    for options, message in [
        ({"mode": "pool"}, "mode: must be one of exact, gram, got 'pool'"),
        ({"chunk": 0}, "chunk: must be at least 1, got 0"),
        ({"pool": 0}, "pool: must be at least 1, got 0"),
        ({"anchors": -1}, "anchors: must be at least 0, got -1"),
        ({"mode": "gram", "anchors": 8}, "anchors: must be 0 in mode gram, got 8"),
    ]:
        with pytest.raises(ValueError, match=message):
            SpatialAffinityLoss(**options)
    with pytest.raises(ValueError, match="sigma: must be above 0, got 0"):
        MaskedFeatureLoss(sigma=0)
    with pytest.raises(ValueError, match="an adapter needs both, got 3 and None"):
        MaskedFeatureLoss(student_channels=3)
    x = torch.randn(1, 3, 2, 2)
    with pytest.raises(ValueError, match=r"the adapter is for 3 \(student\) and 5 \(teacher\) channels, got student"):
        MaskedFeatureLoss(student_channels=3, teacher_channels=5)([x], [x])
    with pytest.raises(TypeError):
        SpatialAffinityLoss(0.04)


@pytest.mark.parametrize("loss", ALL)
def test_registered(loss):
    built = build_loss({"type": loss.__name__, "loss_weight": 0.04})
    assert type(built) is loss and built.loss_weight == 0.04


def test_registry_reports_bad_options():
    with pytest.raises(OptionError, match="SpatialAffinityLoss: chunk: must be at least 1"):
        build_loss({"type": "SpatialAffinityLoss", "chunk": 0})
