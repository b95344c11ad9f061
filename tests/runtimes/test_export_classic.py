"""The networks of BasicSR 1.4 export for any size, and the file gives PyTorch's numbers: the command checks that."""

import pytest
import torch

from basicsr.archs import build_network
from basicsr.archs.edsr_arch import TINY as TINY_EDSR
from basicsr.archs.rrdbnet_arch import TINY as TINY_RRDBNET
from basicsr.archs.srresnet_arch import TINY as TINY_MSRRESNET
from basicsr.archs.srvgg_arch import TINY as TINY_SRVGG
from basicsr.archs.swinir_arch import TINY as TINY_SWINIR
from basicsr.export import main
from basicsr.runtimes.trace import OLDEST_TORCH, side_rule

pytest.importorskip("onnx", reason="needs the extra `export`")
pytest.importorskip("onnxscript", reason="needs the extra `export`")
pytest.importorskip("onnxruntime", reason="needs the extra `export`")
if torch.__version__ < OLDEST_TORCH:
    pytest.skip("exports need a newer PyTorch", allow_module_level=True)

SPECS = {  # name: (spec, side rule)
    "rrdbnet": ({"type": "RRDBNet", **TINY_RRDBNET, "scale": 2}, (2, 2)),
    "srvgg": ({"type": "SRVGGNetCompact", **TINY_SRVGG, "upscale": 2}, (2, 1)),
    "edsr": ({"type": "EDSR", **TINY_EDSR, "upscale": 2}, (2, 1)),
    "msrresnet": ({"type": "MSRResNet", **TINY_MSRRESNET, "upscale": 2}, (2, 1)),
    "swinir": ({"type": "SwinIR", **TINY_SWINIR, "upscale": 2}, (4, 4)),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in ("edsr", "msrresnet") else ()) for name in SPECS]
)
def test_the_command_exports_and_compares(name, tmp_path):
    torch.manual_seed(0)
    spec, rule = SPECS[name]
    net = build_network(spec)
    assert side_rule(net) == rule
    path = tmp_path / f"{name}.pth"
    torch.save({"params": net.state_dict(), "network_g": spec}, path)
    assert main(["-m", str(path), "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / f"{name}_dynamic.onnx").stat().st_size > 1000
