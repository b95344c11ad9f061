"""States that cannot be resumed."""

import pytest
from models.prunable_nets import TINY
from models.prune_steps import step

from basicsr.engine.checkpoint import load_file
from basicsr.errors import OptionError


class TestResuming:
    @pytest.fixture
    def state(self, search_values, model_of, tmp_path):
        """State and weights of a search after a step."""
        model = model_of(search_values())
        step(model, 1)
        model.save(0, 1)
        folder = tmp_path / "experiments" / "s"
        return load_file(folder / "training_states" / "1.state"), load_file(folder / "models" / "net_g_1.pth")

    @pytest.mark.parametrize(
        ("section", "message"),
        [
            ({"budget": {"blocks": 3}}, r"path.resume_state: .*15 choices of 6 groups, this run has 20 choices of 6"),
            ({"prune": {"force_keep": [1]}}, r"path.resume_state: .*15.* 5"),
            ({"prune": {"sampler": "bernoulli"}}, r"path.resume_state: "),
        ],
    )
    def test_logits_of_other_masks_are_rejected(self, search_values, model_of, state, section, message):
        model = model_of(search_values(**section))
        with pytest.raises(OptionError, match=message):
            model.resume_training(*state, "net_g_1.pth")

    def test_a_state_of_another_stage_is_rejected(self, search_values, finetune_values, model_of, state):
        values = finetune_values(prune={"kept": [0, 1, 2, 3, 4, 5]})
        values["network_g"] = TINY
        model = model_of(values)
        with pytest.raises(
            OptionError, match=r"path.resume_state: is a state of stage search, this is stage finetune; "
        ):
            model.resume_training(*state, "net_g_1.pth")
        step(model, 1)
        model.save(0, 1)
        state = {**state[0], **model.extra_state()}
        del state["search"]
        with pytest.raises(OptionError, match=r"path.resume_state: is a state of stage finetune, this is stage search"):
            model_of(search_values()).resume_training(state, {"params": model.net_g.state_dict()}, "x")
