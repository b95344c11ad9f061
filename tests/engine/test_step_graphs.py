"""Training steps as graphs: the same numbers with and without, and who may have them."""

import logging
from types import SimpleNamespace

import pytest
import torch
import yaml
from fake_graphs import FakeBackend

from basicsr.config.load import load_options, resolve
from basicsr.engine.optimizer_groups import parameters_of
from basicsr.engine.step_graphs import MAX_GRAPHS, STEP_METHODS, GraphedStep, Outcome, methods_of_plugins
from basicsr.errors import OptionError
from basicsr.models import build_model
from basicsr.models.base_model import BaseModel
from basicsr.models.prune_distill_model import PruneDistillModel
from basicsr.models.sr_model import SRModel

TINY = {"type": "CATANet", "upscale": 2, "dim": 16, "block_num": 1, "qk_dim": 12, "mlp_dim": 24, "heads": 2,
        "patch_size": [8], "num_tokens": [4], "group_size": [64], "n_iters": [2]}  # fmt: skip
CAPTURABLE = {"type": "AdamW", "lr": 1e-3, "fused": True, "capturable": True}


@pytest.fixture
def model(tmp_path):
    def model(num_gpu=0, network=TINY, **train):
        values = {
            "name": "x",
            "scale": 2,
            "num_gpu": num_gpu,
            "network_g": network,
            "path": {"experiments_root": str(tmp_path / "experiments")},
            "datasets": {"train": {"type": "PairedImageDataset", "dataroot_gt": "unused"}},
            "train": {"total_iter": 20, "optim_g": CAPTURABLE, "pixel_opt": {"type": "L1Loss"}, **train},
        }
        path = tmp_path / "x.yml"
        path.write_text(yaml.safe_dump(values))
        torch.manual_seed(3)
        return build_model(resolve(load_options(path, is_train=True)))

    return model


def batch(seed, size=2, side=12):
    generator = torch.Generator().manual_seed(seed)
    lq, gt = (torch.rand(size, 3, s, s, generator=generator) for s in (side, 2 * side))
    return {"lq": lq, "gt": gt, "gt_path": [f"{seed}_{k}.png" for k in range(size)]}


def graphed(model, **backend):
    fake = FakeBackend(**backend)
    model.training_step.graphs = GraphedStep(fake, lambda: parameters_of(model.optimizers))
    return fake


def steps(model, last, sides=(12,), first=1):
    losses = []
    for it in range(first, last + 1):
        model.update_learning_rate(it, 4)
        model.feed_data(batch(it, side=sides[it % len(sides)]))
        model.optimize_parameters(it)
        losses.append(model.log["l_pix"])
    return [loss.item() for loss in losses]  # at the end, so that no later step may have changed them


FEATURES = [
    {"ema_decay": 0.9, "scheduler": {"type": "MultiStepLR", "milestones": [5]}},
    {"accum_iter": 2, "grad_clip": 0.01},
    {"amp": "bf16", "use_grad_clip": True, "ema_decay": 0.5},
    {"optim_g": {"type": "MUON", "lr": [1e-3, 1e-4]}, "grad_clip": 0.1},
]


@pytest.mark.parametrize("train", FEATURES)
def test_results_are_those_without_graphs(model, train):
    plain, repeated = model(**train), model(**train)
    backend = graphed(repeated)
    assert steps(repeated, 7) == steps(plain, 7)
    assert backend.done == ["run", "run", "watch", "record", *["replay"] * 4]
    torch.testing.assert_close(repeated.net_g.state_dict(), plain.net_g.state_dict(), rtol=0, atol=0)
    if "ema_decay" in train:
        mine, theirs = (m.ema.module.state_dict() for m in (repeated, plain))
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    norms = [one.training_step.grad_norms for one in (repeated, plain)]
    assert len(norms[0]) == len(norms[1]) == ("grad_clip" in str(train))
    assert all(torch.equal(a, b) for a, b in zip(*norms, strict=True))


def test_another_shape_is_warmed_up_and_recorded_by_itself(model):
    plain, repeated = model(), model()
    backend = graphed(repeated)
    assert steps(repeated, 12, sides=(12, 10)) == steps(plain, 12, sides=(12, 10))
    assert [backend.count(what) for what in ("run", "watch", "record", "replay")] == [4, 2, 2, 6]
    torch.testing.assert_close(repeated.net_g.state_dict(), plain.net_g.state_dict(), rtol=0, atol=0)


def test_saving_and_going_on_is_the_same_with_graphs(model, tmp_path):
    from basicsr.engine.checkpoint import load_file

    straight, stopped, going_on = model(ema_decay=0.9), model(ema_decay=0.9), model(ema_decay=0.9)
    for one in (straight, stopped, going_on):
        graphed(one)
    steps(straight, 9)
    steps(stopped, 5)
    stopped.save(0, 5)
    folder = tmp_path / "experiments" / "x"
    state, weights = load_file(folder / "training_states" / "5.state"), load_file(folder / "models" / "net_g_5.pth")
    assert isinstance(state["optimizers"][0]["param_groups"][0]["lr"], float)
    going_on.resume_training(state, weights, "net_g_5.pth")
    steps(going_on, 9, first=6)
    torch.testing.assert_close(going_on.net_g.state_dict(), straight.net_g.state_dict(), rtol=0, atol=0)


def test_numbers_that_are_not_finite_name_the_files_of_their_batch(model, tmp_path):
    one = model()
    graphed(one)
    steps(one, 5)
    data = batch(6)
    data["lq"][0, 0, 0, 0] = float("nan")
    one.feed_data(data)
    one.optimize_parameters(6)
    with pytest.raises(FloatingPointError, match=r"iteration 6: the loss is not finite .*6_0\.png, 6_1\.png"):
        one.check_finite(6)
    assert '"files": ["6_0.png", "6_1.png"]' in (tmp_path / "experiments/x/non_finite.jsonl").read_text()


class TestFallingBack:
    @pytest.mark.parametrize(
        ("backend", "said"),
        [
            ({"waits": "plugin.py:7 makes the CPU wait for the GPU"}, "plugin.py:7 makes the CPU wait for the GPU"),
            ({"fails": RuntimeError("operation not permitted")}, "operation not permitted"),
            ({"fails": torch.OutOfMemoryError("CUDA out of memory")}, "memory does not suffice for them"),
        ],
    )
    def test_is_said_once_and_changes_nothing(self, model, backend, said, caplog):
        plain, repeated = model(), model()
        fake = graphed(repeated, **backend)
        caplog.set_level(logging.INFO, logger="basicsr")
        assert steps(repeated, 6) == steps(plain, 6)
        messages = [m for m in caplog.messages if "graph" in m]
        assert len(messages) == 1
        assert messages[0].startswith(f"Without CUDA graphs in training: {said}")
        assert fake.count("replay") == 0

    def test_graphs_are_bounded_and_the_longest_unused_goes(self):
        backend = FakeBackend()
        step = GraphedStep(backend, list)

        def body(batch):
            return Outcome({"l": batch["x"].sum()}, torch.tensor(True), [])

        for key in range(MAX_GRAPHS + 2):
            for k in range(5):
                outcome = step(body, {"x": torch.full((2,), float(k))}, key)
                assert outcome.losses["l"] == 2 * k
        assert backend.alive == MAX_GRAPHS
        assert backend.count("record") == MAX_GRAPHS + 2
        backend.done.clear()
        step(body, {"x": torch.ones(2)}, 0)  # warmed up before
        assert backend.done == ["wait", "record", "replay"]

    def test_gradients_are_those_of_the_graph_that_ran_last(self):
        p = torch.nn.Parameter(torch.ones(2))

        class Static(FakeBackend):
            """Writes the gradients of each graph into tensors of its own."""

            def record(self, body):
                p.grad = gradient = torch.zeros(2)
                outcome = body()

                def replay():
                    gradient.fill_(self.value)
                    return outcome

                return SimpleNamespace(replay=replay)

        backend = Static()
        step = GraphedStep(backend, lambda: [p])
        found = []
        for backend.value, key in enumerate([*[1] * 5, *[2] * 5, 1, 2, 2, 1]):
            step(lambda batch: Outcome({}, torch.tensor(True), []), {"x": torch.ones(2)}, key)
            found.append(None if p.grad is None else p.grad[0].item())
        assert found[-4:] == [10, 11, 12, 13]


class TestWhoMay:
    def test_an_optimizer_that_can_be_part_of_a_graph(self, model):
        assert model().graph_obstacle() == model().graph_doubt() == ""

    @pytest.mark.parametrize(
        ("train", "said"),
        [
            ({"nan": "skip"}, "train.nan: skip looks at the numbers of every step"),
            ({"optim_g": {"type": "SGD", "lr": 1e-3}}, "SGD is not built to be part of one; Adam, AdamW and MUON are"),
            ({"optim_g": {**CAPTURABLE, "capturable": False}}, "AdamW is not built to be part of one"),
        ],
    )
    def test_options_that_forbid_it(self, model, train, said):
        assert model(**train).graph_obstacle().startswith(said)

    def test_several_processes_and_the_scaler(self, model):
        one = model()
        one.opt = SimpleNamespace(dist=True, train=one.opt.train)
        assert one.graph_obstacle() == "several processes work together"
        one.opt.dist = False
        one.training_step.scaler = SimpleNamespace(is_enabled=lambda: True)
        assert one.graph_obstacle() == "the scaler of float16 decides in Python"

    def test_plugins_with_a_step_of_their_own(self, model):
        class Own(SRModel):
            def compute_losses(self, batch):
                return super().compute_losses(batch)

        class Harmless(SRModel):
            def post_process(self):
                pass

        assert methods_of_plugins(Own, STEP_METHODS) == ["compute_losses"]
        for harmless in (Harmless, SRModel, BaseModel):
            assert methods_of_plugins(harmless, STEP_METHODS) == []
        one = model()
        one.__class__ = Own
        assert one.graph_obstacle() == "the plug-in Own has its own compute_losses"

    def test_code_from_elsewhere_is_doubted(self, model):
        class OwnLoss(torch.nn.Module):
            pass

        one = model()
        one.losses["own_opt"] = torch.nn.Sequential(OwnLoss())
        assert one.graph_doubt() == "the Python code of OwnLoss may decide differently in every step"

    def test_true_on_the_cpu_is_noted(self, model, caplog):
        caplog.set_level(logging.INFO, logger="basicsr")
        assert model().training_step.graphs is None
        assert not any("graph" in m for m in caplog.messages)
        assert model(cuda_graph=True).training_step.graphs is None
        assert "train.cuda_graph: there are none on cpu; the run goes on without" in caplog.messages

    def test_on_cuda(self, model, caplog):
        caplog.set_level(logging.INFO, logger="basicsr")
        for train, is_graphed in (({}, True), ({"cuda_graph": True}, True), ({"cuda_graph": False}, False)):
            one = model(**train)
            one.device = torch.device("cuda")
            one.training_step.setup_graphs()
            assert (one.training_step.graphs is not None) is is_graphed
        one = model(nan="skip")
        one.device = torch.device("cuda")
        one.training_step.setup_graphs()
        assert one.training_step.graphs is None
        assert caplog.messages[-1] == (
            "Without CUDA graphs in training: train.nan: skip looks at the numbers of every step"
        )
        one = model(nan="skip", cuda_graph=True)
        one.device = torch.device("cuda")
        with pytest.raises(OptionError, match=r"x.yml:\d+: train.cuda_graph: cannot be used, because train.nan: skip"):
            one.training_step.setup_graphs()

    def test_what_distillation_draws_and_changes(self):
        def prune_model(search=None, zoom=0.0, sa=0.0, anchors=0):
            one = object.__new__(PruneDistillModel)
            kd = SimpleNamespace(zoom=SimpleNamespace(weight=zoom), sa=SimpleNamespace(weight=sa, anchors=anchors))
            one.opt = SimpleNamespace(kd=kd, dist=True, train=None)
            one.search, one.distillation = (
                search,
                SimpleNamespace(
                    alpha=lambda it: 0.5 if it < 10 else 0.0, feature_weight=lambda it: max(0.0, 1 - it / 12)
                ),
            )
            one.training_step, one.optimizers = SimpleNamespace(scaler=None), []
            one.tail_warmup = SimpleNamespace(active=lambda it: it <= 4)
            return one

        assert "search" in prune_model(search=object()).graph_obstacle()
        assert "kd.zoom" in prune_model(zoom=1.0).graph_obstacle()
        assert "kd.sa.anchors" in prune_model(sa=1.0, anchors=9).graph_obstacle()
        assert "several processes" in prune_model(anchors=9).graph_obstacle()
        keys = [prune_model().graph_key(it) for it in (1, 4, 5, 9, 10, 12)]
        assert [keys[0] == key for key in keys] == [True, True, False, False, False, False]
        assert keys[2] == keys[3] != keys[4] != keys[5]


@pytest.mark.gpu
@pytest.mark.parametrize("train", FEATURES)
def test_same_numbers_on_cuda(model, train, caplog):
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    caplog.set_level(logging.INFO, logger="basicsr")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        adam = {"optim_g": {"type": "Adam", "lr": 1e-3}}
        plain = model(num_gpu=1, cuda_graph=False, **{**adam, **train})
        repeated = model(num_gpu=1, cuda_graph=True, **{**adam, **train})
        assert steps(repeated, 10, sides=(12, 12, 10)) == steps(plain, 10, sides=(12, 12, 10))
    finally:
        torch.use_deterministic_algorithms(False)
    assert "Training steps run as a CUDA graph" in caplog.messages
    torch.testing.assert_close(repeated.net_g.state_dict(), plain.net_g.state_dict(), rtol=0, atol=0)
    if "ema_decay" in train:
        mine, theirs = (m.ema.module.state_dict() for m in (repeated, plain))
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
