import pytest
import torch

from basicsr.losses.basic_loss import L1Loss
from basicsr.losses.loss_util import reduce_loss, weight_reduce_loss, weighted_loss


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
