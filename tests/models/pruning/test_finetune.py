"""Fine-tuning under the teacher, step by step."""

import pytest
import torch
import torch.nn.functional as F
from fake_graphs import FakeBackend
from models.prunable_nets import TINY, catanet
from models.prune_steps import NO_FEATURES, batch, moved, state_of, step

from basicsr.engine.checkpoint import load_file
from basicsr.engine.optimizer_groups import parameters_of
from basicsr.engine.step_graphs import GraphedStep
from basicsr.pruning.compaction import compact
from basicsr.pruning.distillation import Transform


class TestFineTuning:
    def test_begins_with_the_groups_of_the_teacher(self, finetune_values, model_of):
        model = model_of(finetune_values())
        lq = batch(1)["lq"]
        with torch.no_grad():
            expected = model.teacher(lq, [0, 1, 0, 0, 1, 0])
            torch.testing.assert_close(model.net_g.eval()(lq), expected, rtol=0, atol=1e-6)

    def test_features_are_those_of_matched_groups_and_fade(self, finetune_values, model_of):
        model = model_of(finetune_values(kd={"match": "origin", "sa": {"weight": 1.0}}))
        assert model.distillation.pairs == [(0, 1), (1, 4)]
        values = []
        for it in range(1, 11):
            step(model, it, **batch(1))
            values.append(model.get_current_log())
        assert set(values[0]) == {"l_pix", "l_ts", "l_sa"}
        assert set(values[7]) == {"l_pix", "l_ts"}  # features end with iteration 8 of 10
        assert set(values[8]) == {"l_pix"}

    def test_kept_groups_come_from_the_weight_file(self, finetune_values, model_of, tmp_path):
        small = compact(catanet(), [0, 3])
        file = tmp_path / "small.pth"
        torch.save({"params": small.state_dict(), "meta": {"kept": [0, 3]}}, file)
        values = finetune_values(path={"pretrain_network_g": str(file)})
        del values["prune"]["kept"]
        values["network_g"]["num_tokens"] = [4, 8]
        assert model_of(values).distillation.pairs == [(0, 2), (1, 5)]
        values["kd"]["taps"] = "last"
        assert model_of(values).distillation.pairs == [(1, 5)]

    def test_what_a_file_lacks_comes_from_the_teacher(self, finetune_values, model_of, tmp_path):
        file = tmp_path / "x3.pth"
        torch.save({"params": compact(catanet(upscale=3), [1, 4]).state_dict()}, file)
        values = finetune_values(path={"pretrain_network_g": str(file), "strict_load_g": False})
        model = model_of(values)
        body, teacher = load_file(file)["params"], compact(model.teacher, [1, 4]).state_dict()
        lacking = {name for name, value in teacher.items() if body[name].shape != value.shape}
        assert lacking == {"upconv.weight", "upconv.bias"}  # the tail of x2
        for name, value in model.net_g.state_dict().items():
            assert torch.equal(value, (teacher if name in lacking else body)[name]), name

    def test_a_teacher_of_another_width_gives_nothing_to_a_file_that_fits(
        self, finetune_values, model_of, tmp_path, caplog
    ):
        torch.save({"params": catanet(dim=20).state_dict()}, tmp_path / "t.pth")
        small = compact(catanet(), [1, 4]).state_dict()
        torch.save({"params": small}, tmp_path / "g.pth")
        values = finetune_values(kd=NO_FEATURES)
        values["network_t"] = {**TINY, "dim": 20}
        values["path"] = {
            "pretrain_network_t": str(tmp_path / "t.pth"), "pretrain_network_g": str(tmp_path / "g.pth"),
            "strict_load_g": False,
        }  # fmt: skip
        model = model_of(values)
        assert all(torch.equal(value, small[name]) for name, value in model.net_g.state_dict().items())
        assert "g.pth lacks is initialised at random: network_g: is not what the groups [1, 4]" in caplog.text

    def test_zoomed_inputs_have_the_teachers_outputs_as_targets(self, finetune_values, model_of, monkeypatch):
        kd = {"zoom": {"weight": 0.5, "crops": 2, "augment": 1.0}, **NO_FEATURES}
        model = model_of(finetune_values(kd=kd))
        seen = {}
        targets = model.distillation.teacher_targets
        monkeypatch.setattr(model.distillation, "teacher_targets", remember(seen, "lq", targets))
        monkeypatch.setattr(model, "_student", remember(seen, "student", model._student))
        monkeypatch.setattr(
            "basicsr.models.prune_distill_model.Transform", lambda p, square: keep(seen, "change", Transform(p))
        )
        step(model, 1)
        lq, inputs, change = seen["lq"], seen["student"], seen["change"]
        assert lq.shape == inputs.shape == (6, 3, 12, 12)
        assert torch.equal(lq[:2], inputs[:2]) and torch.equal(lq[:2], batch(1)["lq"])
        assert change.kind is not None and torch.equal(change(lq[2:]), inputs[2:])
        gt = F.unfold(batch(1)["gt"], 12).unflatten(1, (3, 12, 12))
        assert all((gt[k % 2] == lq[2 + k][..., None]).flatten(0, 2).all(0).any() for k in range(4))
        again = model_of(finetune_values(kd=kd))
        with torch.no_grad():
            expected = 0.5 * F.l1_loss(change(again.net_g(inputs)[2:]), again.teacher(lq)[2:])
        torch.testing.assert_close(model.log["l_zoom"], expected)

    def test_an_adapter_learns_along_and_is_saved(self, finetune_values, model_of, weights, tmp_path):
        teacher = catanet(dim=20)
        torch.save({"params": teacher.state_dict()}, tmp_path / "t.pth")
        values = finetune_values(kd={"feat": {"weight": 0.1, "adapter": True}})
        values["network_t"] = {**TINY, "dim": 20}
        values["path"] = {"pretrain_network_t": str(tmp_path / "t.pth")}
        values["prune"] = {"stage": "finetune", "kept": [1, 4]}
        torch.save({"params": compact(catanet(), [1, 4]).state_dict()}, tmp_path / "g.pth")
        values["path"]["pretrain_network_g"] = str(tmp_path / "g.pth")
        model = model_of(values)
        before = state_of(model.distillation.features)
        assert before["feat.adapter.weight"].shape == (20, 16, 1, 1)
        step(model, 1)
        step(model, 2)
        assert moved(before, model.distillation.features) == {"feat.adapter.weight", "feat.adapter.bias"}
        model.save(0, 2)
        folder = tmp_path / "experiments" / "s"
        again = model_of(values)
        again.resume_training(
            load_file(folder / "training_states" / "2.state"), load_file(folder / "models" / "net_g_2.pth"), "x"
        )
        assert moved(state_of(model.distillation.features), again.distillation.features) == set()
        step(model, 3)
        step(again, 3)
        for mine, theirs in ((again.net_g, model.net_g), (again.distillation.features, model.distillation.features)):
            torch.testing.assert_close(mine.state_dict(), theirs.state_dict(), rtol=0, atol=0)

    @pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
    def test_steps_as_graphs_give_the_same_numbers(self, finetune_values, model_of, device):
        """While the tail alone learns, while features fade, and after."""
        values = finetune_values(prune={"tail_warmup_iter": 5}, train={"total_iter": 16, "ema_decay": 0.9},
                                 kd={"feat": {"weight": 0.1, "adapter": True}, "feature_off_at": 0.7})  # fmt: skip
        values["num_gpu"] = int(device == "cuda")
        backend = FakeBackend()
        models = []
        for graph in (False, True):
            values["train"]["cuda_graph"] = graph
            torch.manual_seed(0)
            model = model_of(values)
            if graph and device == "cpu":
                model.training_step.graphs = GraphedStep(backend, lambda model=model: parameters_of(model.optimizers))
            for it in range(1, 17):
                model.update_learning_rate(it)
                model.feed_data(batch(it))
                model.optimize_parameters(it)
            assert (model.training_step.graphs is not None) is graph
            models.append(model)
        for part in ("net_g", "ema", "distillation"):
            plain, graphed = (getattr(model, part).state_dict() for model in models)
            torch.testing.assert_close(graphed, plain, rtol=0, atol=0)
        if device == "cpu":  # iterations 1 to 5, 6 to 11 and 13 to 16; in 12 the teacher's output still counts
            assert [backend.count(what) for what in ("record", "replay")] == [3, 2 + 3 + 1]

    def test_a_new_tail_is_warmed_up_alone(self, finetune_values, model_of):
        prune = {"tail_warmup_iter": 3, "tail_warmup_lr": 0.005}
        model = model_of(finetune_values(network_g={"tail": "direct"}, prune=prune, train={"ema_decay": 0.5}))
        before = state_of(model.net_g)
        for it in (1, 2, 3):
            step(model, it)
            assert model.get_current_learning_rate() == [0.005]
        tail = {"last_conv.weight", "last_conv.bias"}
        assert moved(before, model.net_g) == moved(before, model.ema.module) == tail
        step(model, 4)
        assert model.get_current_learning_rate() == [1e-3]
        assert moved(before, model.net_g) == set(before) - {"blocks.0.0.initted", "blocks.1.0.initted"}

    def test_a_new_tail_is_fitted_by_least_squares(self, finetune_values, model_of, tmp_path):
        values = finetune_values(network_g={"tail": "direct"}, prune={"tail_fit": 3}, train={"ema_decay": 0.5})
        model = model_of(values)
        before = state_of(model.net_g)
        for it in (1, 2, 3):
            step(model, it)
            assert set(model.get_current_log()) == {"l_tail"}
            if it == 2:
                assert moved(before, model.net_g) == set()
                model.save(0, 2)
        tail = {"last_conv.weight", "last_conv.bias"}
        assert moved(before, model.net_g) == moved(before, model.ema.module) == tail

        net = model.net_g.eval()  # the gradient of the square error is 0 in its minimum
        net.zero_grad()
        for it in (1, 2, 3):
            F.mse_loss(net(batch(it)["lq"]), batch(it)["gt"]).backward()
        fitted = net.last_conv.weight.grad.clone()
        net.zero_grad()
        with torch.no_grad():
            net.last_conv.weight.copy_(before["last_conv.weight"])
        F.mse_loss(net(batch(1)["lq"]), batch(1)["gt"]).backward()
        assert fitted.norm() < 1e-3 * net.last_conv.weight.grad.norm()

        again = model_of(values)
        folder = tmp_path / "experiments" / "s"
        again.resume_training(
            load_file(folder / "training_states" / "2.state"), load_file(folder / "models" / "net_g_2.pth"), "x"
        )
        step(again, 3)
        torch.testing.assert_close(again.ema.state_dict(), model.ema.state_dict(), rtol=0, atol=0)
        before = state_of(again.net_g)
        step(again, 4)
        assert moved(before, again.net_g) == set(before) - {"blocks.0.0.initted", "blocks.1.0.initted"}


def remember(seen, name, function):
    """`function`, whose first argument is kept under `name`."""

    def call(first, *args):
        seen[name] = first.clone()
        return function(first, *args)

    return call


def keep(seen, name, value):
    seen[name] = value
    return value
