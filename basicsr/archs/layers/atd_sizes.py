"""Sizes of the ATD networks: those that are published, the defaults, and checks that sizes fit each other."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

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


def complete_sizes(version: Version | None, given: Mapping[str, Any]) -> tuple[Version, dict[str, Any]]:
    """Return the version and all sizes of an ATD, of which `given` are those that its user has set.

    Raises:
        ValueError: for an unknown version, or a size that the version lacks.
    """
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


def check_sizes(sizes: Mapping[str, Any], upscale: int, in_chans: int, img_size: int) -> None:
    """Check that the sizes of an ATD, as `complete_sizes` returns them, fit each other and the scale.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    dim, depths, num_heads = sizes["embed_dim"], list(sizes["depths"]), list(sizes["num_heads"])
    check_at_least(
        1,
        upscale=upscale,
        in_chans=in_chans,
        img_size=img_size,
        embed_dim=dim,
        depths=min(depths, default=0),
        category_size=sizes["category_size"],
        num_tokens=sizes["num_tokens"],
        reducted_dim=sizes["reducted_dim"],
        dim_ffn_td=sizes.get("dim_ffn_td") or 1,
    )
    check_at_least(2, window_size=sizes["window_size"])
    check_heads(dim, num_heads)
    if len(num_heads) != len(depths):
        raise ValueError(f"num_heads: needs one value for each of the {len(depths)} depths, got {num_heads}")
    check_kernel(sizes["convffn_kernel_size"])
    check_choice("upsampler", sizes["upsampler"], Upsampler)
    rules = {
        "pixelshuffle": ("3 or a power of 2", upscale == 3 or upscale & (upscale - 1) == 0),
        "nearest+conv": ("4", upscale == 4),
        "": ("1", upscale == 1),
    }
    rule, fits = rules.get(sizes["upsampler"], ("", True))
    if not fits:
        raise ValueError(f"upscale: must be {rule} with upsampler {sizes['upsampler']!r}, got {upscale}")


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Check that `value` is one of the values of a `Literal`.

    Raises:
        ValueError: naming the argument and its choices.
    """
    if value not in get_args(choices):
        raise ValueError(f"{name}: must be one of {', '.join(map(repr, get_args(choices)))}, got {value!r}")


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
