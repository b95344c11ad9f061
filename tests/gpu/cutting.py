"""A mask search, up to the compact network that it writes."""

import json

import torch
from gpu.training import TOTAL, with_device
from reliability.runs import options, pruning

from basicsr.archs import build_network


def check_search_and_cut(folder, device, train):
    """Check that the search writes a network of the two kept groups that equals the masked network."""
    changes = {**pruning(folder, TOTAL), "compact": {"enable": True}}
    run = train(folder / "run", with_device(device, options(folder, TOTAL, **changes)))
    report = json.loads((run.experiment / "prune_report.json").read_text())
    assert max(report["equality"].values()) <= 1e-5
    content = torch.load(run.experiment / "compact/net_g_xs.pth", weights_only=True)
    assert content["meta"]["kept"] == report["kept"] and len(report["kept"]) == 2
    net = build_network(content["network_g"])
    net.load_state_dict(content["params"])
    with torch.no_grad():
        assert net.eval()(torch.rand(1, 3, 9, 11)).shape == (1, 3, 18, 22)
