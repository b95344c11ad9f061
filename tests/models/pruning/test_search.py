"""The search of a mask, step by step: phases, logits, token centres, parts of a batch, low-rank additions."""

import copy
import csv

import numpy as np
import pytest
import torch
from models.prune_steps import batch, moved, state_of, step

from basicsr.errors import OptionError
from basicsr.losses.fakd_loss import SpatialAffinityLoss
from basicsr.pruning.compaction import compact, kept_groups


class TestSearch:
    def test_only_the_groups_that_a_mask_keeps_move_their_centres(self, search_values, model_of):
        model = model_of(search_values(prune={"warmup_iter": 2, "search_iter": 6, "settle_iter": 2}))
        net = model.masked.module
        seen = set()
        for it in range(1, 11):
            before = state_of(net)
            step(model, it)
            kept = kept_groups(model.masked.mask)
            seen.add(tuple(kept))
            assert len(kept) == 2
            buffers = {name for name, _ in net.named_buffers()}
            assert moved(before, net) & buffers == {f"blocks.{i}.0.means" for i in kept}
        assert len(seen) > 2

    def test_centres_of_dropped_groups_stay_where_their_residual_is_evaluated_for_the_gate(
        self, search_values, model_of
    ):
        """As above with a state never set: not even the flag of a dropped group may change."""
        model = model_of(
            search_values(prune={"warmup_iter": 0, "search_iter": 10, "settle_iter": 0, "eps_uniform": 0.0})
        )
        net = model.masked.module
        for block in net.blocks:
            block[0].initted.fill_(False)
            block[0].initialised = False
        step(model, 1)
        assert all(p.grad is not None for p in net.parameters())
        kept = kept_groups(model.masked.mask)
        assert [i for i in range(6) if bool(net.blocks[i][0].initted)] == kept

    @pytest.mark.parametrize("stage", ["search", "finetune"])
    def test_training_never_changes_the_teacher(self, search_values, finetune_values, model_of, stage):
        prune = {"warmup_iter": 2, "search_iter": 4, "settle_iter": 2}
        if stage == "search":
            values = search_values(prune=prune, train={"total_iter": 8}, kd={"search_taps": "last"})
        else:
            values = finetune_values(train={"total_iter": 8}, kd={"zoom": {"weight": 0.1}})
        model = model_of(values)
        before = state_of(model.teacher)
        for it in range(1, 9):
            step(model, it)
            assert not model.teacher.training
        assert moved(before, model.teacher) == set()
        assert not any(p.requires_grad or p.grad is not None for p in model.teacher.parameters())
        assert {id(p) for p in model.teacher.parameters()}.isdisjoint(
            id(p) for optimizer in model.optimizers for group in optimizer.param_groups for p in group["params"]
        )

    def test_search_taps_compare_the_last_output_of_the_body(self, search_values, model_of):
        """Also where the mask drops the last group."""
        kd = {"sa": {"weight": 0.5}, "ca": {"weight": 0.1}}
        model, dropped = model_of(search_values(kd={**kd, "search_taps": "last"})), set()
        loss = SpatialAffinityLoss(loss_weight=0.5)
        for it in range(1, 11):
            net, lq = copy.deepcopy(model.masked.module), batch(it)["lq"]
            step(model, it)
            gates = [int(bit) for bit in model.masked.mask]
            dropped.add(gates[-1] == 0)
            with torch.no_grad():
                (_, mine), (_, theirs) = net(lq, gates, taps=[5]), model.teacher(lq, taps=[5])
                torch.testing.assert_close(model.log["l_sa"], loss([mine[5]], [theirs[5]]))
            assert float(model.log["l_ca"]) > 0
        assert dropped == {True, False}
        model = model_of(search_values(kd=kd))
        step(model, 1)
        assert not {"l_sa", "l_ca"} & set(model.log)

    def test_logits_learn_in_the_search_alone_and_weights_throughout(self, search_values, model_of):
        model = model_of(search_values())
        masked = model.masked
        for it in range(1, 11):
            logits, weight = masked.sampler.logits.clone(), masked.module.first_conv.weight.clone()
            step(model, it)
            phase = model.search.phase(it)
            assert phase == ("warmup" if it <= 2 else "search" if it <= 7 else "settle")
            assert torch.equal(logits, masked.sampler.logits) == (phase != "search"), it
            assert not torch.equal(weight, masked.module.first_conv.weight)
            if phase == "settle":
                assert torch.equal(masked.mask.long(), masked.sampler.mode())

    def test_what_is_tested_is_the_masked_network(self, search_values, model_of):
        model = model_of(search_values())
        for it in range(1, 5):
            step(model, it)
        lq = batch(1)["lq"]
        with model.predictor() as predict:
            output = predict(lq)
        bits = model.masked.sampler.mode().tolist()
        assert model.search.mode == "".join(map(str, bits))
        net = copy.deepcopy(model.masked.module).eval()
        with torch.no_grad():
            torch.testing.assert_close(output, net(lq, bits), rtol=0, atol=1e-5)
            assert not torch.allclose(output, net(lq), atol=1e-3)

    @pytest.mark.parametrize(
        "prune",
        [
            {"sampler": "subset", "logits": "per_block"},
            {"sampler": "nm", "patterns": [[1, 2], [1, 2]]},
            {"sampler": "nm", "patterns": [[1, 2], [1, 2]], "inter_block": {"enable": False}},
            {"sampler": "bernoulli"},
            {"sampler": "fixed", "fixed_mask": [0, 1, 0, 1]},
        ],
        ids=["per_block", "nm", "nm alone", "bernoulli", "fixed"],
    )
    def test_every_sampler_trains_and_is_logged(self, search_values, model_of, prune):
        phases = {"warmup_iter": 0, "search_iter": 3, "settle_iter": 0, "eps_uniform": 0.0, "entropy_weight": 1e-3}
        model = model_of(search_values("cnn", prune={**prune, **phases}, train={"total_iter": 3}))
        before = state_of(model.masked.sampler)
        for it in (1, 2, 3):
            step(model, it)
        rows = list(csv.DictReader(model.mask_log.path.open()))
        assert [row["iter"] for row in rows] == ["1", "2", "3"]
        assert all(float(row["grad_norm_g"]) > 0 for row in rows)
        learned = {name for name, _ in model.masked.sampler.named_parameters()}
        assert moved(before, model.masked.sampler) == learned
        assert bool(learned) == (prune["sampler"] != "fixed")
        assert ("l_budget" in rows[0]) == (prune["sampler"] == "bernoulli")
        assert len(kept_groups([int(bit) for bit in model.search.mode])) == 2
        again = model_of(search_values("cnn", prune={**prune, **phases}, train={"total_iter": 3}))
        again.load_extra_state(model.extra_state(), 3)
        assert moved(state_of(model.masked.sampler), again.masked.sampler) == set()
        assert again.search.state_dict().keys() == model.search.state_dict().keys()

    def test_a_search_ends_early_when_it_has_long_been_clear(self, search_values, model_of):
        model = model_of(search_values("cnn", prune={"min_search_iter": 4, "freeze_conf": 0.5, "freeze_patience": 2}))
        step(model, 3)
        with torch.no_grad():
            model.masked.sampler.logits[4] = 9.0
        for it in (4, 5, 6):
            step(model, it)
            assert model.search.phase(7) == ("settle" if it == 6 else "search")
        assert model.search.mode == "".join(map(str, model.masked.sampler.choices[4].tolist()))
        assert model.search.mode_since == 4


class TestParts:
    def test_each_part_of_a_batch_has_a_mask_of_its_own(self, search_values, model_of):
        prune = {"mask_chunks": 2, "warmup_iter": 0, "search_iter": 10, "settle_iter": 0}
        model = model_of(search_values("cnn", prune=prune))
        step(model, 1)
        generator = model.masked.sampler
        drawn = [generator.sample(1, model.search.tau(1), model.search.eps(1), chunk).tolist() for chunk in (0, 1)]
        assert len(set(map(tuple, drawn))) == 2
        row = next(csv.DictReader(model.mask_log.path.open()))
        assert [float(row[f"drawn_{i}"]) for i in range(4)] == np.mean(drawn, axis=0).tolist()

    def test_parts_of_an_accumulated_batch_have_as_many(self, search_values, model_of):
        prune = {"mask_chunks": 2, "warmup_iter": 0, "search_iter": 10, "settle_iter": 0}
        model = model_of(search_values("cnn", prune=prune, train={"accum_iter": 2}))
        step(model, 1, **batch(1, size=4))
        assert model.draws.count == 4

    def test_of_unequal_size_are_rejected(self, search_values, model_of):
        with pytest.raises(
            OptionError, match=r"x.yml:\d+: prune.mask_chunks: a batch of 2 does not divide into 3 parts"
        ):
            model_of(search_values("cnn", prune={"mask_chunks": 3}))


class TestWeights:
    def test_low_rank_additions_learn_alone_and_are_part_of_the_cut_network(self, search_values, model_of):
        model = model_of(search_values(prune={"delta_w": "lora", "lora_rank": 2}))
        before, low_rank = state_of(model.masked.module), state_of(model.masked.low_rank)
        for it in range(1, 11):
            step(model, it)
        buffers = {name for name, _ in model.masked.module.named_buffers()}
        assert moved(before, model.masked.module) <= buffers
        assert {"blocks|0|0|conv1x1|weight|a", "blocks|0|0|conv1x1|weight|b"} <= moved(low_rank, model.masked.low_rank)
        whole = model.whole_network()
        changed = moved(before, whole) - buffers
        assert "blocks.0.0.conv1x1.weight" in changed and "blocks.5.1.layer.1.fn.fc1.weight" in changed
        assert not any("norm" in name or name.startswith(("mid_convs", "first_conv")) for name in changed)
        key = "blocks|0|0|conv1x1|weight"
        addition = (model.masked.low_rank[f"{key}|b"] @ model.masked.low_rank[f"{key}|a"])[..., None, None]
        name = "blocks.0.0.conv1x1.weight"
        torch.testing.assert_close(whole.state_dict()[name], before[name] + addition.detach())
        lq = batch(1)["lq"]
        model.masked.eval(), whole.eval()
        with torch.no_grad():
            masked = model.masked(lq, model.search.draw(10, 0))
            small = compact(whole, kept_groups(model.masked.mask))
            torch.testing.assert_close(small(lq), masked, rtol=0, atol=1e-6)

    def test_low_rank_additions_have_no_average(self, search_values, model_of):
        with pytest.raises(OptionError, match=r"prune.delta_w: lora has no moving average; set train.ema_decay to 0"):
            model_of(search_values("cnn", prune={"delta_w": "lora"}, train={"ema_decay": 0.9}))

    @pytest.mark.parametrize("eps", [0.0, 1.0])
    def test_the_logits_can_learn_alone(self, search_values, model_of, eps):
        model = model_of(search_values("cnn", prune={"delta_w": "none", "eps_uniform": eps}))
        before, logits = state_of(model.masked.module), state_of(model.masked.sampler)
        for it in range(1, 11):
            step(model, it)
        assert moved(before, model.masked.module) <= {name for name, _ in model.masked.module.named_buffers()}
        assert moved(logits, model.masked.sampler) == {"logits"}

    def test_nothing_to_learn_is_rejected(self, search_values, model_of):
        fixed = {"sampler": "fixed", "fixed_mask": [1, 0, 0, 1], "delta_w": "none"}
        with pytest.raises(OptionError, match=r"prune.delta_w: none leaves nothing to learn with sampler fixed"):
            model_of(search_values("cnn", prune=fixed))

    def test_the_average_is_what_is_cut(self, search_values, model_of):
        model = model_of(search_values(train={"ema_decay": 0.5}))
        for it in (1, 2, 3):
            step(model, it)
        kept = kept_groups([int(bit) for bit in model.search.mode])
        average, small = model.ema.module.state_dict(), model.net_eval.state_dict()
        assert torch.equal(small["mid_convs.1.weight"], average[f"mid_convs.{kept[1]}.weight"])
        assert torch.equal(small["blocks.0.0.means"], model.masked.module.state_dict()[f"blocks.{kept[0]}.0.means"])
        assert not torch.equal(average["first_conv.weight"], model.masked.module.first_conv.weight)
