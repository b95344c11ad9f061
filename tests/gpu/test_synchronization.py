"""Neither a forward pass nor a training step makes the CPU wait for the GPU."""

from contextlib import contextmanager

import pytest
import torch
from archs.registered import NAMES, has_tiny_sizes, scales
from gpu.agreement import trained_network
from gpu.steps import RECIPES, WARM_UP, warmed_up_step

pytestmark = pytest.mark.gpu


@contextmanager
def error_on_synchronization():
    """Raise RuntimeError where the CPU would wait for the GPU inside."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_synchronization_is_detected():
    x = torch.rand(4, device="cuda")
    with pytest.raises(RuntimeError, match="synchronizing"), error_on_synchronization():
        float(x.sum())


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("name", [name for name in NAMES if has_tiny_sizes(name) and name != "Bicubic"])
def test_evaluation(name, prepared):
    net = trained_network(name).cuda()
    if prepared and not hasattr(net, "prepared"):
        pytest.skip(f"{name} has no prepared form")
    net = net.prepared() if prepared else net
    x = torch.rand(1, 3, 24, 31, device="cuda")
    with torch.inference_mode():
        for _ in range(WARM_UP):
            expected = net(x)
        with error_on_synchronization():
            found = net(x)
    assert found.shape[-1] == scales(name)[0] * 31
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("kind", ["catanet", "atd", "atd_unet"])
def test_a_training_step(kind, recipe, tmp_path):
    step = warmed_up_step(tmp_path, kind, recipe, "cuda", cuda_graph=False)
    with error_on_synchronization():
        model = step()
    model.check_finite(WARM_UP + 1)
