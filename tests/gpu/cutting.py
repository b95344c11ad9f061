"""A search of a mask up to the network that it leaves."""

import json

import torch
from gpu.training import TOTAL, on
from reliability.runs import options, pruning

from basicsr.archs import build_network


def search_is_cut_and_checked(folder, device, train):
    """Whether the search writes a network of the two groups that its mask keeps, equal to the masked one."""
    changes = {**pruning(folder, TOTAL), "compact": {"enable": True}}
    run = train(folder / "run", on(device, options(folder, TOTAL, **changes)))
    report = json.loads((run.experiment / "prune_report.json").read_text())
    assert max(report["equality"].values()) <= 1e-5
    content = torch.load(run.experiment / "compact/net_g_xs.pth", weights_only=True)
    assert content["meta"]["kept"] == report["kept"] and len(report["kept"]) == 2
    net = build_network(content["network_g"])
    net.load_state_dict(content["params"])
    with torch.no_grad():
        assert net.eval()(torch.rand(1, 3, 9, 11)).shape == (1, 3, 18, 22)
