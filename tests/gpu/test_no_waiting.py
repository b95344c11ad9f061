"""Neither a forward nor a training step makes the CPU wait for the card."""

from contextlib import contextmanager

import pytest
import torch
from archs.registered import NAMES, has_tiny_sizes, scales
from gpu.agreement import trained
from gpu.training import KINDS, model_options, on

from basicsr.models import build_model

pytestmark = pytest.mark.gpu
WARM_UP = 3  # calls that plan, compile and allocate
RECIPES = {
    "plain": {"ema_decay": 0.9, "grad_clip": 0.5},
    "bfloat16": {"ema_decay": 0.9, "grad_clip": 0.5, "amp": "bf16"},
    "AdamW": {"ema_decay": 0.9, "grad_clip": 0.5, "optim_g": {"type": "AdamW", "lr": 1e-3}},
}


@contextmanager
def no_waiting():
    """Raise RuntimeError where the CPU would wait for the GPU inside."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_waiting_is_found():
    x = torch.rand(4, device="cuda")
    with pytest.raises(RuntimeError, match="synchronizing"), no_waiting():
        float(x.sum())


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("name", [name for name in NAMES if has_tiny_sizes(name) and name != "Bicubic"])
def test_evaluation(name, prepared):
    net = trained(name).cuda()
    if prepared and not hasattr(net, "prepared"):
        pytest.skip(f"{name} has no prepared form")
    net = net.prepared() if prepared else net
    x = torch.rand(1, 3, 24, 31, device="cuda")
    with torch.inference_mode():
        for _ in range(WARM_UP):
            expected = net(x)
        with no_waiting():
            found = net(x)
    assert found.shape[-1] == scales(name)[0] * 31
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("kind", ["catanet", "atd", "atd_unet"])
def test_a_training_step(kind, recipe, tmp_path):
    values = KINDS[kind](tmp_path)
    for key in ("iters", "mini_batch_sizes", "gt_sizes"):
        values["datasets"]["train"].pop(key, None)  # a stage picks its samples by index, which is a copy to the card
    train = {**values["train"], "optim_g": {"type": "Adam", "lr": 1e-3}, **RECIPES[recipe]}
    values = {**on("cuda", values), "deterministic": False, "train": train}
    model = build_model(model_options(tmp_path, values))
    side = 12 * values["scale"]
    batch = {"lq": torch.rand(2, 3, 12, 12, device="cuda"), "gt": torch.rand(2, 3, side, side, device="cuda")}

    def step(it):
        model.update_learning_rate(it)
        model.feed_data(batch)
        model.optimize_parameters(it)

    for it in range(1, WARM_UP + 1):
        step(it)
    with no_waiting():
        step(WARM_UP + 1)
    model.check_finite(WARM_UP + 1)
