"""Sizes of the ATD networks: those that are published, the defaults, and checks that sizes fit each other."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from basicsr.archs.layers.setup import check_at_least

Version = Literal[1, 2]
Upsampler = Literal["pixelshuffle", "pixelshuffledirect", "nearest+conv", ""]
Connection = Literal["1conv", "3conv"]
Unit = Literal["group", "layer"]

# By network and version. "constructor": defaults of the published constructor where only some sizes are given.
SIZES: dict[tuple[str, int], dict[str, Any]] = {
    ("constructor", 2): {
        "embed_dim": 90, "depths": (6,) * 4, "num_heads": (6,) * 4, "window_size": 8, "dim_ffn_td": 16,
        "category_size": 128, "num_tokens": 64, "reducted_dim": 4, "convffn_kernel_size": 5, "mlp_ratio": 2.0,
        "upsampler": "",
    },
    ("ATD", 1): {
        "embed_dim": 210, "depths": (6,) * 6, "num_heads": (6,) * 6, "window_size": 16, "category_size": 256,
        "num_tokens": 128, "reducted_dim": 20, "convffn_kernel_size": 5, "mlp_ratio": 2, "upsampler": "pixelshuffle",
    },
    ("ATD", 2): {
        "embed_dim": 216, "depths": (6,) * 6, "num_heads": (4,) * 6, "window_size": 16, "dim_ffn_td": 16,
        "category_size": 256, "num_tokens": 512, "reducted_dim": 16, "convffn_kernel_size": 5, "mlp_ratio": 2,
        "upsampler": "pixelshuffle",
    },
    ("ATD-light", 1): {
        "embed_dim": 48, "depths": (6,) * 4, "num_heads": (4,) * 4, "window_size": 16, "category_size": 128,
        "num_tokens": 64, "reducted_dim": 8, "convffn_kernel_size": 7, "mlp_ratio": 1,
        "upsampler": "pixelshuffledirect",
    },
    ("ATD-light", 2): {
        "embed_dim": 48, "depths": (6,) * 4, "num_heads": (3,) * 4, "window_size": 16, "dim_ffn_td": 4,
        "category_size": 128, "num_tokens": 128, "reducted_dim": 12, "convffn_kernel_size": 7, "mlp_ratio": 1,
        "upsampler": "pixelshuffledirect",
    },
}  # fmt: skip


class LayerSizes(NamedTuple):
    """Sizes of a transformer layer."""

    dim: int
    heads: int
    window: int
    category: int
    tokens: int
    reduced: int
    hidden: int
    kernel: int
    category_channels: int | None  # of the FFN for the category; None: version 1
    qkv_bias: bool = True
    proj_bias: bool = True
    ffn_bias: bool = True
    own_index: bool = False  # whether the layer's state holds the position index of its windows


def complete_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constructor's arguments of an ATD with its version and all its sizes, checked.

    Args:
        given: the arguments; sizes and the version may be None.

    Raises:
        ValueError: naming an argument that does not fit the others.
    """
    names = SIZES["constructor", 2]
    version, sizes = _complete_sizes(given["version"], {name: given[name] for name in names if given[name] is not None})
    options = {**sizes, **{name: value for name, value in given.items() if name not in names}, "version": version}
    _check(options)
    return options


def _complete_sizes(version: Version | None, given: Mapping[str, Any]) -> tuple[Version, dict[str, Any]]:
    """Return the version and all sizes of an ATD, of which `given` are set."""
    if version not in (None, 1, 2):
        raise ValueError(f"version: must be 1 or 2, got {version!r}")
    if not given:
        return version or 2, dict(SIZES["ATD", version or 2])
    version = version or (2 if "dim_ffn_td" in given else 1)
    if version == 1 and "dim_ffn_td" in given:
        raise ValueError(f"dim_ffn_td: version 1 has none, got {given['dim_ffn_td']}; leave it out, or say version: 2")
    sizes = {**SIZES["constructor", 2], **given}
    if version == 1:
        del sizes["dim_ffn_td"]
    return version, sizes


def _check(options: Mapping[str, Any]) -> None:
    """Check that the arguments of an ATD fit each other."""
    depths, num_heads, upscale = list(options["depths"]), list(options["num_heads"]), options["upscale"]
    sizes: tuple[str, ...] = ("upscale", "in_chans", "img_size", "embed_dim")
    check_at_least(1, **{name: options[name] for name in sizes}, depths=min(depths, default=0))
    sizes = ("category_size", "num_tokens", "reducted_dim")
    check_at_least(1, **{name: options[name] for name in sizes}, dim_ffn_td=options.get("dim_ffn_td") or 1)
    check_at_least(2, window_size=options["window_size"])
    check_heads(options["embed_dim"], num_heads)
    if len(num_heads) != len(depths):
        raise ValueError(f"num_heads: needs one value for each of the {len(depths)} depths, got {num_heads}")
    check_kernel(options["convffn_kernel_size"])
    for name, choices in (("upsampler", Upsampler), ("resi_connection", Connection), ("prune_unit", Unit)):
        if options[name] not in get_args(choices):
            raise ValueError(f"{name}: must be one of {', '.join(map(repr, get_args(choices)))}, got {options[name]!r}")
    rules = {
        "pixelshuffle": ("3 or a power of 2", upscale == 3 or upscale & (upscale - 1) == 0),
        "nearest+conv": ("4", upscale == 4),
        "": ("1", upscale == 1),
    }
    rule, fits = rules.get(options["upsampler"], ("", True))
    if not fits:
        raise ValueError(f"upscale: must be {rule} with upsampler {options['upsampler']!r}, got {upscale}")


def check_kernel(side: int) -> None:
    """Check that the side of the FFN's convolution is odd.

    Raises:
        ValueError: when it is even.
    """
    if side % 2 == 0:
        raise ValueError(f"convffn_kernel_size: must be odd, got {side}")


def check_heads(dim: int, num_heads: Sequence[int]) -> None:
    """Check that all numbers of heads divide the channels.

    Raises:
        ValueError: when one does not.
    """
    for heads in num_heads:
        if heads < 1 or dim % heads:
            raise ValueError(f"num_heads: must divide embed_dim ({dim}), got {list(num_heads)}")


def layer_sizes(options: Mapping[str, Any], heads: int) -> LayerSizes:
    """Return the sizes of an ATD's layers with `heads` heads, from the result of `complete_options`."""
    return LayerSizes(
        dim=options["embed_dim"],
        heads=heads,
        window=options["window_size"],
        category=options["category_size"],
        tokens=options["num_tokens"],
        reduced=options["reducted_dim"],
        hidden=int(options["embed_dim"] * options["mlp_ratio"]),
        kernel=options["convffn_kernel_size"],
        category_channels=options.get("dim_ffn_td"),
        qkv_bias=options["qkv_bias"],
    )


def complete_kept_layers(kept: Sequence[Sequence[int]] | None, depths: Sequence[int]) -> list[list[int]]:
    """Return the 0-based indices of the layers that each residual group still has; None: all.

    Raises:
        ValueError: when there are more or fewer lists than groups, or an index is out of range or order.
    """
    if kept is None:
        return [list(range(depth)) for depth in depths]
    result = [list(places) for places in kept]
    if len(result) != len(depths):
        raise ValueError(f"kept_layers: needs one list for each of the {len(depths)} depths, got {result}")
    for places, depth in zip(result, depths, strict=True):
        if places != sorted(set(places) & set(range(depth))):
            raise ValueError(f"kept_layers: must be layers from 0 to {depth - 1}, ascending, got {places}")
    return result
