"""The counter of launches knows a handmade function, with and without a backward pass."""

import pytest
import torch

from basicsr.engine.launches import LaunchCounter, count_launches


@pytest.fixture
def x():
    return torch.rand(2, 6)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.view(3, 4),
        lambda x: x.reshape(12),
        lambda x: x.t(),
        lambda x: x.mT,
        lambda x: x[0, 1:3],
        lambda x: x.expand(5, 2, 6),
        lambda x: x.detach(),
        lambda x: x.unbind(),
        lambda x: x.split(2, dim=1),
        lambda x: x.unfold(1, 3, 2),
        lambda x: torch.ops.aten.alias(x),
        lambda x: torch.ops.aten._unsafe_view(x, [12]),
        lambda x: x.contiguous(),
        lambda x: x.to(torch.float32),
    ],
)
def test_views_are_not_counted(view, x):
    assert count_launches(lambda: view(x)) == 0


@pytest.mark.parametrize(
    ("calls", "function"),
    [
        (1, lambda x: x.t() + 1),  # t; add
        (1, lambda x: x.add_(1)),  # writes to what it aliases
        (2, lambda x: torch.sin(x.flatten()).t().clone()),
        (3, lambda x: (x.t() @ x).softmax(0)[0].contiguous().double()),  # t, mm, softmax, select, _to_copy
        (2, lambda x: torch.add(x, x, out=torch.empty(2, 6))),  # empty, add.out
    ],
)
def test_a_known_number_of_calls(calls, function, x):
    with torch.no_grad():
        assert count_launches(lambda: function(x)) == calls


def test_a_backward_pass_counts(x):
    x.requires_grad_()
    with LaunchCounter() as counter:
        y = (x.sin() * 2).sum()
        assert dict(counter.calls) == {"aten::sin": 1, "aten::mul": 1, "aten::sum": 1}
        y.backward()
    # Ones for the gradient of the sum, which is expanded; times 2; and times the cosine.
    assert counter.total == 3 + 4
    assert counter.calls == {
        "aten::sin": 1,
        "aten::mul": 3,
        "aten::sum": 1,
        "aten::ones_like": 1,
        "aten::cos": 1,
    }


def test_a_loop_counts_its_rounds(x):
    assert count_launches(lambda: [x[i] * 2 for i in range(2)]) == 2
