import numpy as np
import pytest
import torch

from basicsr.losses.basic_loss import L1Loss
from basicsr.losses.loss_util import get_refined_artifact_map, reduce_loss, weight_reduce_loss, weighted_loss


def test_weighted():
    @weighted_loss
    def distance(pred, target):
        return (pred - target).abs()

    pred, target = torch.tensor([1.0, 1.0, 3.0]), torch.zeros(3)
    weight = torch.tensor([1.0, 0.0, 2.0])
    assert distance(pred, target).item() == pytest.approx(5 / 3)
    assert distance(pred, target, weight).item() == pytest.approx(7 / 3)
    assert distance(pred, target, weight, "sum").item() == 7
    assert distance(pred, target, weight, reduction="none").tolist() == [1, 0, 6]
    with pytest.raises(ValueError, match="reduction"):
        reduce_loss(pred, "avg")
    maps = torch.rand(2, 3, 4, 4)
    mask = torch.randint(0, 2, (2, 1, 4, 4)).float()
    expected = (maps * mask).sum() / (mask.sum() * 3)
    torch.testing.assert_close(weight_reduce_loss(maps, mask), expected)


def test_arguments_by_position():
    assert L1Loss(0.5, "sum")(torch.ones(2), torch.zeros(2), weight=None, extra=1).item() == 1


def test_artifacts_are_weighed_by_local_variance_where_the_average_is_closer():
    gt, output, average = (torch.rand(2, 3, 6, 7, dtype=torch.float64) for _ in range(3))
    found = get_refined_artifact_map(gt, output, average, 3)
    residual = (gt - output).abs().sum(1)
    is_worse = residual >= (gt - average).abs().sum(1)
    mirrored = np.pad(residual.numpy(), ((0, 0), (1, 1), (1, 1)), mode="reflect")
    for b, i, j in np.ndindex(2, 6, 7):
        local = np.var(mirrored[b, i : i + 3, j : j + 3], ddof=1)
        expected = local * np.var(residual[b].numpy(), ddof=1) ** 0.2 if is_worse[b, i, j] else 0
        assert found[b, 0, i, j].item() == pytest.approx(expected)
    assert 0 < is_worse.sum() < is_worse.numel()
