"""The option types themselves: their documentation and the values that they derive."""

import dataclasses

from basicsr.config import pruning, schema
from basicsr.config.schema import Options, PathOptions
from basicsr.config.section import Section, Spec
from basicsr.config.training import TrainOptions

ITEMS = [item for module in (pruning, schema) for item in vars(module).values()]
SECTIONS = {item for item in ITEMS if isinstance(item, type) and issubclass(item, Section)}


def test_every_option_is_documented():
    assert {Options, TrainOptions, pruning.BudgetOptions} <= SECTIONS
    fields = [(section, field) for section in SECTIONS for field in dataclasses.fields(section)]
    assert [f"{section.__name__}.{field.name}" for section, field in fields if not field.metadata["doc"]] == []


def test_losses_are_the_keys_that_end_in_opt():
    pixel, own = Spec({"type": "L1Loss"}), Spec({"type": "MSELoss"})
    train = TrainOptions(total_iter=1, optim_g=Spec({"type": "Adam"}), pixel_opt=pixel, extra={"own_opt": own, "n": 1})
    assert train.losses == {"pixel_opt": pixel, "own_opt": own}


def test_a_minimal_dict_leaves_out_defaults_and_values_of_the_run():
    path = PathOptions(param_key_g="params_ema", results_root="results", models="m", extra={"own": (1, 2)})
    assert path.to_minimal_dict() == {"param_key_g": "params_ema", "own": [1, 2]}
    assert path.to_dict()["models"] == "m"
