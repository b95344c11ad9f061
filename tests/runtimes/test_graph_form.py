"""The form that layers have in exported networks: it gives the same numbers."""

import pytest
import torch
from runtimes.exported import NETS, ONE_BLOCK, trained

from basicsr.archs.layers import plain_attention
from basicsr.archs.layers.export_mode import GraphForm, counting_order, graph_form
from basicsr.archs.layers.group_hook import group_choices
from basicsr.archs.layers.patches import PatchGrid
from basicsr.runtimes.trace import OLDEST_TORCH, for_graph

if torch.__version__ < OLDEST_TORCH:
    pytest.skip("exports need a newer PyTorch", allow_module_level=True)


@pytest.mark.parametrize(("length", "groups"), [(1, 1), (1, 5), (3, 2), (577, 7), (4096, 128)])
def test_counting_order_is_the_stable_sort(length, groups):
    chosen = torch.randint(0, groups, (length,), dtype=torch.int32)
    order, places = counting_order(chosen, groups)
    assert order.dtype == places.dtype == torch.int32
    assert torch.equal(order.long(), chosen.argsort(stable=True))
    assert torch.equal(order[places.long()], torch.arange(length, dtype=torch.int32))


@pytest.mark.parametrize("most", [plain_attention.GRAPH_SCORES, 0], ids=["all heads", "head by head"])
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("size", [(24, 24), (19, 30), (9, 5)])
def test_equal_to_the_network_in_float64(name, size, most, monkeypatch):
    monkeypatch.setattr(plain_attention, "GRAPH_SCORES", most)
    net = trained(NETS[name]).double()
    module = for_graph(net, torch.float64) if name.startswith("catanet") else net
    x = torch.rand(1, 3, *size, dtype=torch.float64)
    with torch.inference_mode():
        expected = net(x)
        with graph_form(GraphForm(is_static=True)):
            found = module(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_form_ends_with_its_context():
    net, x = trained(NETS["catanet"]), torch.rand(1, 3, 20, 20)
    with torch.inference_mode():
        before = net(x)
        with pytest.raises(RuntimeError, match="stop"), graph_form(GraphForm(is_static=True)):
            raise RuntimeError("stop")
        assert torch.equal(net(x), before)


@pytest.mark.parametrize("size", [(7, 40), (29, 31), (64, 64)])
def test_patches_are_merged_as_outside_of_graphs(size):
    def merged(p):
        grid = PatchGrid(size, 8)
        p = p[:, : grid.count * grid.area]
        return grid.merge(p), grid.scale_as_merged(t)

    t, p = torch.rand(1, size[0] * size[1], 3), torch.rand(1, 20_000, 3)
    expected = merged(p)
    with graph_form(GraphForm(is_static=True)):
        torch.testing.assert_close(merged(p), expected, rtol=0, atol=1e-6)


def test_choices_are_recorded_and_forced():
    net = trained(ONE_BLOCK).prepared()
    x = torch.rand(1, 3, 20, 22)
    with torch.inference_mode():
        with group_choices() as own:
            expected = net(x)
        with group_choices(own.chosen) as same:
            assert torch.equal(net(x), expected)
        with group_choices([(own.chosen[0] + 1) % 4]) as other:
            assert not torch.equal(net(x), expected)
    assert len(own.chosen) == len(same.chosen) == 1
    assert float(same.gaps[0].abs().max()) == 0
    assert float(other.gaps[0].min()) > 0  # another group is never nearer
