"""MUON against the recipe written out, and in a model: groups, rates, saving and going on."""

import copy

import pytest
import torch
import yaml
from torch import nn

from basicsr.config.load import load_options, resolve
from basicsr.engine import optimizers
from basicsr.engine.checkpoint import load_file
from basicsr.engine.optimizers import MUON, orthogonalize
from basicsr.errors import OptionError
from basicsr.models import build_model

LR, WEIGHT_DECAY, BETAS, EPS = (1e-2, 2e-3), 0.1, (0.9, 0.95), 1e-10
TINY = {"type": "CATANet", "upscale": 2, "dim": 16, "block_num": 2, "qk_dim": 12, "mlp_dim": 24, "heads": 2,
        "patch_size": [8, 10], "num_tokens": [4, 8], "group_size": [64, 32], "n_iters": [2, 3]}  # fmt: skip


class Net(nn.Module):
    """Weights of every kind, of which some have the same shape."""

    def __init__(self):
        super().__init__()
        self.conv_first = nn.Conv2d(2, 6, 3, padding=1)
        self.depthwise = nn.Conv2d(6, 6, (5, 3), padding=(2, 1), groups=6)
        self.norm = nn.LayerNorm(6)
        self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.grow = nn.Linear(6, 15, bias=False)
        self.shrink = nn.Linear(15, 6)
        self.table = nn.Parameter(torch.randn(7, 2))
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.conv_last = nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, x):
        y = self.norm(self.depthwise(self.conv_first(x)).movedim(1, -1))
        for layer in self.layers:
            y = torch.tanh(layer(y)) + self.table.mean()
        return x + self.conv_last(self.shrink(self.grow(y)).movedim(-1, 1)) * self.scale


def muon(net, lr=LR, **options):
    return MUON(net.named_parameters(), lr, **{"weight_decay": WEIGHT_DECAY, **options})


def give_gradients(net, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


def literal_muon_step(p, g, m, lr):
    """One matrix at a time, as the recipe says; returns the new weight and momentum."""
    m = m + 0.05 * (g - m)
    u = (g + 0.95 * (m - g)).reshape(len(g), -1)
    x = u / u.norm()
    x = x.T if len(x) > x.shape[1] else x
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    x = x.T if len(u) > u.shape[1] else x
    rows, columns = p.shape[-2:]
    return p * (1 - lr * WEIGHT_DECAY) - lr * max(1, rows / columns) ** 0.5 * x.reshape(p.shape), m


def literal_adamw_step(p, g, m, v, t, lr):
    m, v = BETAS[0] * m + (1 - BETAS[0]) * g, BETAS[1] * v + (1 - BETAS[1]) * g**2
    step = m / (1 - BETAS[0] ** t) / ((v / (1 - BETAS[1] ** t)).sqrt() + EPS)
    return p * (1 - lr * WEIGHT_DECAY) - lr * step, m, v


def literal_steps(net, count):
    """Weights by name after `count` steps with the gradients of `give_gradients`."""
    weights = {name: p.detach().clone() for name, p in net.named_parameters()}
    states = {name: [torch.zeros_like(p), torch.zeros_like(p)] for name, p in weights.items()}
    for t in range(1, count + 1):
        give_gradients(net, t)
        for name, p in net.named_parameters():
            m, v = states[name]
            if name in {"conv_first.weight"} or p.ndim < 2:
                weights[name], m, v = literal_adamw_step(weights[name], p.grad, m, v, t, LR[1])
            else:
                weights[name], m = literal_muon_step(weights[name], p.grad, m, LR[0])
            states[name] = [m, v]
    return weights


class TestStep:
    def test_is_the_recipe(self, monkeypatch):
        """In double precision, so that nothing but rounding can hide."""
        monkeypatch.setattr(optimizers, "NEWTON_SCHULZ_DTYPE", torch.float64)
        net = Net().double()
        expected = literal_steps(copy.deepcopy(net), 4)
        optimizer = muon(net)
        for t in range(1, 5):
            give_gradients(net, t)
            optimizer.step()
        torch.testing.assert_close(dict(net.named_parameters()), expected, rtol=0, atol=1e-12)

    def test_bfloat16_is_close_to_the_recipe(self):
        net = Net()
        start = copy.deepcopy(net.state_dict())
        expected = literal_steps(copy.deepcopy(net).double(), 1)
        give_gradients(net, 1)
        muon(net).step()
        for name, p in net.named_parameters():
            assert p.dtype == torch.float32
            moved = (expected[name] - start[name]).norm()
            assert (p - expected[name]).norm() < 0.1 * moved, name
        torch.testing.assert_close(net.conv_first.weight.double(), expected["conv_first.weight"], rtol=0, atol=1e-7)

    def test_groups(self):
        net = Net()
        by_name = dict(net.named_parameters())
        groups = [
            {name for p in group["params"] for name in by_name if by_name[name] is p}
            for group in muon(net).param_groups
        ]
        assert groups[0] == {
            "depthwise.weight",
            "layers.0.weight",
            "layers.1.weight",
            "grow.weight",
            "shrink.weight",
            "table",
            "conv_last.weight",
        }
        assert groups[1] == set(by_name) - groups[0]

    def test_matrices_move_as_with_torchs_muon(self):
        if not hasattr(torch.optim, "Muon"):
            pytest.skip("torch.optim.Muon came with PyTorch 2.9")
        ours = nn.Sequential(nn.Linear(6, 15, bias=False), nn.Linear(15, 6, bias=False), nn.Linear(6, 6, bias=False))
        theirs = copy.deepcopy(ours)
        torchs = torch.optim.Muon(theirs.parameters(), lr=LR[0], weight_decay=WEIGHT_DECAY)
        both = (ours, muon(ours)), (theirs, torchs)
        for t in range(1, 4):
            for net, optimizer in both:
                give_gradients(net, t)
                optimizer.step()
        # bfloat16 rounds the sums of one and of several products in different orders: a step is right to some percent.
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=3 * LR[0] * 0.02)

    def test_the_rest_moves_as_with_torchs_adamw(self):
        ours = nn.ParameterDict({"first": torch.randn(4, 3), "bias": torch.randn(5), "scale": torch.tensor(2.0)})
        theirs = copy.deepcopy(ours)
        adamw = torch.optim.AdamW(theirs.parameters(), lr=LR[1], betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY)
        both = (ours, muon(ours)), (theirs, adamw)
        for t in range(1, 4):
            for net, optimizer in both:
                give_gradients(net, t)
                optimizer.step()
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)

    def test_a_weight_without_gradient_stays(self):
        net = Net()
        give_gradients(net, 1)
        net.grow.weight.grad = net.norm.bias.grad = None
        before = copy.deepcopy(net.state_dict())
        muon(net).step()
        still = {name for name, value in net.state_dict().items() if torch.equal(value, before[name])}
        assert still == {"grow.weight", "norm.bias"}

    def test_a_gradient_of_zero_moves_nothing(self):
        net = nn.Linear(4, 3)
        before = copy.deepcopy(net.state_dict())
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        muon(net, weight_decay=0).step()
        torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 25), (2, 30, 4), (1, 5, 1)])
def test_orthogonalize_keeps_singular_vectors(shape, monkeypatch):
    matrices = torch.randn(shape, dtype=torch.float64)
    monkeypatch.setattr(optimizers, "NEWTON_SCHULZ_DTYPE", torch.float64)
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    lifted = s / s.norm(dim=-1, keepdim=True)
    for _ in range(5):
        lifted = 3.4445 * lifted - 4.7750 * lifted**3 + 2.0315 * lifted**5
    torch.testing.assert_close(orthogonalize(matrices), u * lifted[:, None] @ vh, rtol=0, atol=1e-10)
    assert lifted.max() < 1.3


def test_it_learns():
    torch.manual_seed(1)
    net = Net()
    optimizer = muon(net, lr=(0.02, 0.01), weight_decay=0.01)
    x = torch.randn(4, 2, 9, 9)

    def closure():
        optimizer.zero_grad()
        loss = (net(x) - 0.5 * x).square().mean()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(40)]
    assert losses[-1] < 0.3 * losses[0]


def test_saving_and_going_on_changes_nothing(tmp_path):
    straight = Net()
    stopped = copy.deepcopy(straight)
    whole, part = muon(straight), muon(stopped)
    for t in range(1, 4):
        for net, optimizer in ((straight, whole), (stopped, part)):
            give_gradients(net, t)
            optimizer.step()
    torch.save(part.state_dict(), tmp_path / "x.state")
    going_on = muon(stopped, lr=(1.0, 1.0))
    going_on.load_state_dict(torch.load(tmp_path / "x.state", weights_only=True))
    for t in range(4, 7):
        for net, optimizer in ((straight, whole), (stopped, going_on)):
            give_gradients(net, t)
            optimizer.step()
    torch.testing.assert_close(stopped.state_dict(), straight.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 1e-3}, "lr: must be two numbers >= 0, the rates of Muon and of AdamW, got 0.001"),
        ({"lr": [1e-3]}, r"lr: must be two numbers >= 0, the rates of Muon and of AdamW, got \[0.001\]"),
        ({"lr": [1e-3, -1]}, r"lr: must be two numbers >= 0, .* got \[0.001, -1\]"),
        ({"momentum": 1.0}, r"momentum, betas: must be in \[0, 1\), got 1.0, \[0.9, 0.95\]"),
        ({"betas": (0.9, 1)}, r"momentum, betas: must be in \[0, 1\), got 0.95, \[0.9, 1\]"),
        ({"weight_decay": -0.1}, "weight_decay, eps: must be at least 0, got -0.1, 1e-10"),
    ],
)
def test_arguments_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        muon(nn.Linear(2, 2), **options)


def test_parameters_without_names_are_refused():
    with pytest.raises(ValueError, match=r"MUON needs \(name, parameter\) pairs; pass net.named_parameters\(\)"):
        MUON(nn.Linear(2, 2).parameters(), LR)


class TestModel:
    @pytest.fixture
    def options(self, tmp_path):
        def options(**optim_g):
            optim_g = {"type": "MUON", "lr": [1e-3, 2e-4], "weight_decay": 0.01, "betas": [0.9, 0.95], **optim_g}
            values = {
                "name": "x",
                "scale": 2,
                "num_gpu": 0,
                "network_g": TINY,
                "path": {"experiments_root": str(tmp_path / "experiments")},
                "datasets": {"train": {"type": "PairedImageDataset", "dataroot_gt": "unused"}},
                "train": {
                    "total_iter": 20,
                    "optim_g": optim_g,
                    "pixel_opt": {"type": "L1Loss"},
                    "grad_clip": 0.01,
                    "scheduler": {"type": "MultiStepLR", "milestones": [3], "gamma": 0.5},
                },
            }
            path = tmp_path / "x.yml"
            path.write_text(yaml.safe_dump(values))
            return resolve(load_options(path, is_train=True))

        return options

    def steps(self, model, first, last):
        for it in range(first, last + 1):
            model.update_learning_rate(it, 2)
            generator = torch.Generator().manual_seed(it)
            lq, gt = (torch.rand(2, 3, side, side, generator=generator) for side in (12, 24))
            model.feed_data({"lq": lq, "gt": gt, "lq_path": ["a"] * 2})
            model.optimize_parameters(it)

    def test_the_network_names_the_parameters(self, options):
        model = build_model(options())
        (optimizer,) = model.optimizers
        matrices, others = ({id(p) for p in group["params"]} for group in optimizer.param_groups)
        for name, p in model.net_g.named_parameters():
            assert id(p) in (matrices if p.ndim >= 2 and "first" not in name else others), name
        first = [name for name, p in model.net_g.named_parameters() if "first" in name and p.ndim >= 2]
        assert len(first) == 1

    def test_the_schedule_holds_for_both_rates(self, options):
        model = build_model(options())
        rates = []
        for it in range(1, 6):
            model.update_learning_rate(it, 2)
            rates.append(model.get_current_learning_rate())
        assert [muon for muon, _ in rates] == pytest.approx([5e-4, 1e-3, 1e-3, 5e-4, 5e-4])
        assert [adam / muon for muon, adam in rates] == pytest.approx([0.2] * 5)

    def test_resuming_changes_nothing(self, options, tmp_path):
        straight = build_model(options())
        stopped = build_model(options())
        stopped.net_g.load_state_dict(straight.net_g.state_dict())
        self.steps(straight, 1, 5)
        self.steps(stopped, 1, 2)
        stopped.save(0, 2)
        folder = tmp_path / "experiments" / "x"
        going_on = build_model(options())
        state, weights = load_file(folder / "training_states" / "2.state"), load_file(folder / "models" / "net_g_2.pth")
        going_on.resume_training(state, weights, "net_g_2.pth")
        self.steps(going_on, 3, 5)
        torch.testing.assert_close(going_on.net_g.state_dict(), straight.net_g.state_dict(), rtol=0, atol=0)

    @pytest.mark.parametrize(
        ("lr", "message"),
        [
            (1e-3, "train.optim_g.lr: expected a list of 2 numbers in [0, 1000], got 0.001"),
            ([1e-3], "train.optim_g.lr: expected 2 values, got 1"),
            ([1e-3, -1.0], "train.optim_g.lr[1]: must be in [0, 1000], got -1.0"),
        ],
    )
    def test_wrong_pairs_of_rates_are_named(self, options, lr, message):
        with pytest.raises(OptionError) as error:
            build_model(options(lr=lr))
        assert message in str(error.value)
