"""Networks that are exported in tests."""

import torch

from basicsr.archs import build_network
from basicsr.archs.atd_arch import TINY as TINY_ATD
from basicsr.archs.atdu_arch import TINY as TINY_ATDU
from basicsr.archs.catanet_arch import TINY as TINY_CATANET
from basicsr.archs.rrdbnet_arch import TINY as TINY_RRDBNET
from basicsr.archs.srvgg_arch import TINY as TINY_SRVGG
from basicsr.archs.swinir_arch import TINY as TINY_SWINIR

NETS = {
    "catanet": {"type": "CATANet", **TINY_CATANET, "upscale": 2},
    "catanet direct": {"type": "CATANet", **TINY_CATANET, "upscale": 4, "tail": "direct"},
    "atd v2": {"type": "ATD", **TINY_ATD, "upscale": 2},
    "atd v1": {"type": "ATD", **{k: v for k, v in TINY_ATD.items() if k != "dim_ffn_td"}, "upscale": 2},
    "atd-u": {"type": "ATDUNet", **TINY_ATDU},
    "swinir": {"type": "SwinIR", **TINY_SWINIR, "upscale": 2},
    "rrdbnet x1": {"type": "RRDBNet", **TINY_RRDBNET, "scale": 1},
    "rrdbnet x2": {"type": "RRDBNet", **TINY_RRDBNET, "scale": 2},
    "srvgg": {"type": "SRVGGNetCompact", **TINY_SRVGG, "upscale": 2},
}
ONE_BLOCK = {
    "type": "CATANet", **TINY_CATANET, "upscale": 2, "block_num": 1, "patch_size": 8, "num_tokens": 4,
    "group_size": 64, "n_iters": 2,
}  # fmt: skip


def trained(spec):
    """A network whose every parameter matters and whose centres are set, as after training."""
    torch.manual_seed(0)
    net = build_network(spec)
    if spec["type"] == "CATANet":
        net.train()(torch.rand(1, 3, 31, 37))
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return net.eval()


def saved(net, spec, path):
    torch.save({"params": net.state_dict(), "network_g": spec}, path)
    return path
