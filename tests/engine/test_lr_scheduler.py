import math

import pytest
import torch
from torch.optim import lr_scheduler

from basicsr.engine.lr_scheduler import (
    CosineAnnealingRestartLR,
    MultiStepLR,
    MultiStepRestartLR,
    build_schedule,
    learning_rate,
)

LR = 2e-4


def torch_rates(make_scheduler, total):
    """The rates that PyTorch uses when it steps once before every iteration from the second on."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = make_scheduler(optimizer)
    rates = []
    for it in range(1, total + 1):
        if it > 1:
            optimizer.step()
            scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def rates(schedule, total):
    return [schedule(it, LR) for it in range(1, total + 1)]


@pytest.mark.parametrize("milestones", [[3, 7, 8], [1], [], [4, 4, 10]])
def test_multi_step_equals_torch(milestones):
    expected = torch_rates(lambda o: lr_scheduler.MultiStepLR(o, milestones, gamma=0.5), 20)
    assert rates(MultiStepLR(milestones=milestones, gamma=0.5), 20) == pytest.approx(expected)
    assert rates(MultiStepRestartLR(milestones=milestones, gamma=0.5), 20) == pytest.approx(expected)


def test_the_rate_drops_after_the_milestone():
    schedule = MultiStepLR(milestones=[10], gamma=0.5)
    assert schedule(10, LR) == LR and schedule(11, LR) == LR / 2


def test_restart_begins_again_with_its_weight():
    schedule = MultiStepRestartLR(milestones=[2, 4, 8], gamma=0.1, restarts=[0, 6], restart_weights=[1, 0.5])
    factors = [rate / LR for rate in rates(schedule, 10)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.5, 0.5, 0.05, 0.05])
    late = MultiStepRestartLR(milestones=[2], gamma=0.1, restarts=[4], restart_weights=[2])
    assert [rate / LR for rate in rates(late, 6)] == pytest.approx([1, 1, 0.1, 0.1, 2, 2])


def test_cosine_equals_torch_and_stays_at_the_end():
    schedule = CosineAnnealingRestartLR(periods=[12], eta_min=1e-7)
    expected = torch_rates(lambda o: lr_scheduler.CosineAnnealingLR(o, 12, eta_min=1e-7), 13)
    assert rates(schedule, 13) == pytest.approx(expected)
    assert schedule(500, LR) == pytest.approx(1e-7)


def test_cosine_periods_have_weights():
    schedule = CosineAnnealingRestartLR(periods=[4, 8], restart_weights=[1, 0.5])
    assert schedule(1, LR) == LR
    assert schedule(5, LR) == pytest.approx(0, abs=1e-18)  # 4 iterations done
    assert schedule(6, LR) == pytest.approx(0.5 * LR * (1 + math.cos(math.pi / 8)) / 2)
    assert schedule(9, LR) == pytest.approx(0.25 * LR)


def test_warm_up_reaches_the_configured_rate():
    schedule = MultiStepLR(milestones=[10], gamma=0.5)
    warm = [learning_rate(it, LR, schedule, warmup_iter=5) / LR for it in range(1, 12)]
    assert warm == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1, 0.5])
    assert learning_rate(5, LR, schedule, warmup_iter=5) == LR
    for none in (-1, 0, 1):
        assert learning_rate(1, LR, schedule, warmup_iter=none) == LR


def test_build_schedule():
    spec = {"type": "MultiStepLR", "milestones": [5], "gamma": 0.5}
    assert build_schedule(spec) == MultiStepLR(milestones=[5], gamma=0.5)
    assert spec == {"type": "MultiStepLR", "milestones": [5], "gamma": 0.5}
    assert build_schedule(None)(10**6, LR) == LR


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        (MultiStepLR, {"milestones": [5, 3]}, r"milestones: .* ascending order, got \[5, 3\]"),
        (MultiStepLR, {"milestones": [0]}, "milestones: must be iterations >= 1"),
        (MultiStepLR, {"milestones": [5], "gamma": 0}, "gamma: must be above 0, got 0"),
        (
            MultiStepRestartLR,
            {"milestones": [5], "restarts": [3, 1], "restart_weights": [1, 1]},
            "restarts: .* ascending",
        ),
        (MultiStepRestartLR, {"milestones": [5], "restarts": [0, 3]}, "one number for each of the 2 restarts, got"),
        (CosineAnnealingRestartLR, {"periods": []}, "periods: "),
        (CosineAnnealingRestartLR, {"periods": [4, 0], "restart_weights": [1, 1]}, r"periods: .* got \[4, 0\]"),
        (CosineAnnealingRestartLR, {"periods": [4, 4]}, "one number for each of the 2 periods, got"),
        (CosineAnnealingRestartLR, {"periods": [4], "eta_min": -1.0}, "eta_min: must be at least 0"),
    ],
)
def test_bad_values(schedule, options, message):
    with pytest.raises(ValueError, match=message):
        schedule(**options)
