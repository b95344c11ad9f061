"""The literal networks of tests/reference, with the sizes and weights of ours: the yardsticks."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from basicsr.archs.atd_arch import ATD
from basicsr.archs.atdu_arch import ATDUNet
from basicsr.archs.catanet_arch import CATANet
from basicsr.errors import OptionError

REFERENCE = Path(__file__).resolve().parents[2] / "tests/reference"


def literal_twin(net: nn.Module) -> nn.Module:
    """Return the literal network with the sizes and weights of `net`, in evaluation.

    Raises:
        OptionError: when there is none.
    """
    twins: tuple[tuple[type[nn.Module], str, str, Callable[[Any], dict[str, Any]]], ...] = (
        (CATANet, "catanet_literal.py", "LiteralCATANet", arguments_of_catanet),
        (ATD, "atd_literal.py", "LiteralATD", arguments_of_atd),
        (ATDUNet, "atd_literal.py", "LiteralATDUNet", arguments_of_atd_u),
    )
    for kind, file, name, arguments in twins:
        if isinstance(net, kind):
            twin = runpy.run_path(str(REFERENCE / file))[name](**arguments(net))
            twin.load_state_dict(net.state_dict())
            return twin.eval()
    names = ", ".join(kind.__name__ for kind, *_ in twins)
    raise OptionError(f"form: only {names} have a literal form, got {type(net).__name__}; use form train")


def arguments_of_catanet(net: Any) -> dict[str, Any]:
    """Return the arguments of the literal CATANet of these sizes."""
    parts: list[Any] = [part for block in net.blocks for part in block.children()]
    tabs, lrsas = parts[::2], parts[1::2]
    heads = tabs[0].iasa_attn.heads
    return {
        "upscale": net.upscale,
        "in_chans": net.first_conv.in_channels,
        "block_num": len(tabs),
        "heads": heads.number,
        "dim": heads.number * heads.v,
        "qk_dim": heads.number * heads.qk,
        "mlp_dim": tabs[0].mlp.fn.fc1.out_features,
        "patch_size": [lrsa.patch_size for lrsa in lrsas],
        "num_tokens": [tab.num_tokens for tab in tabs],
        "group_size": [tab.iasa_attn.group_size for tab in tabs],
        "n_iters": [tab.n_iters for tab in tabs],
    }


def arguments_of_atd(net: Any) -> dict[str, Any]:
    """Return the arguments of the literal ATD of these sizes."""
    arguments = net.compact_kwargs(range(len(net.prunable_groups())))
    if arguments["kept_layers"] is not None:
        raise OptionError("form: an ATD that lost layers has no literal form; use form train")
    return {key: value for key, value in arguments.items() if key not in ("version", "prune_unit", "kept_layers")}


def arguments_of_atd_u(net: Any) -> dict[str, Any]:
    """Return the arguments of the literal ATD-U of these sizes."""
    blocks = [level.block for level in (*net.encoders, net.middle_blks)]
    sizes = [block.layers["0"].sizes for block in blocks]
    every = [*sizes, net.refine_blks.block.layers["0"].sizes]
    # hidden = floor(ratio * dim) in every layer: the middle of the ratios that give all of them.
    ratio = (max(s.hidden / s.dim for s in every) + min((s.hidden + 1) / s.dim for s in every)) / 2
    return {
        "in_chans": net.conv_first.in_channels,
        "embed_dim": sizes[0].dim,
        "mlp_ratio": ratio,
        "depths": [len(block.layers) for block in blocks],
        "num_heads": [s.heads for s in sizes],
        "window_size": [s.window for s in sizes],
        "dim_ffn_td": [s.category_channels for s in sizes],
        "category_size": [s.category for s in sizes],
        "num_tokens": [s.tokens for s in sizes],
        "reducted_dim": [s.reduced for s in sizes],
        "convffn_kernel_size": sizes[0].kernel,
        "bias": net.conv_first.bias is not None,
        "patch_norm": "norm" in net.patch_embed,
    }
