"""The settings of inference: device, type of numbers, tiles and precision, checked before a weight file is read."""

from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

import torch

from basicsr.config.schema import MatmulPrecision
from basicsr.engine.device import pick_device
from basicsr.errors import OptionError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TILES = (1024, 768, 512, 384, 256, 192, 128, 96, 64)  # px: sides that `tile: auto` chooses from, the largest that fits
OVERLAP = 16  # px; docs/inference.md has the measurements
COLORS = ("keep", "srgb")


@dataclass(frozen=True)
class OutputSettings:
    """How outputs of picture files are written.

    Raises:
        OptionError: when a value is out of its range.
    """

    bits: int = 8
    """of a channel: 8; or 16, in PNG and TIFF."""
    color: str = "keep"
    """keep: the values are those of the embedded colour profile, which the output carries; srgb: they are converted."""
    keep_location: bool = False
    """carry GPS positions and names of places over."""
    quality: int | None = None
    """1 to 100, of JPEG (None: 95), AVIF (None: 90) and WebP (None: lossless)."""

    def __post_init__(self) -> None:
        if self.color not in COLORS:
            raise OptionError(f"--color: must be one of {', '.join(COLORS)}, got {self.color!r}")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise OptionError(f"--output-quality: must be in [1, 100], got {self.quality!r}")


class Settings(TypedDict, total=False):
    """The settings of an `Upscaler`, which describes them."""

    device: str | torch.device
    dtype: str | torch.dtype
    tile: int | Literal["auto"] | None
    overlap: int
    self_ensemble: bool
    memory: int | None
    matmul_precision: str


def check_settings(settings: Settings) -> None:
    """Check the settings that are given.

    Raises:
        OptionError: when one is out of its range, or cannot be had on this device.
    """
    device = resolve_device(settings.get("device", "auto"))
    resolve_dtype(settings.get("dtype", "float32"), device)
    resolve_tile(settings.get("tile", "auto"), settings.get("overlap", OVERLAP))
    check_matmul_precision(settings.get("matmul_precision", "highest"))


def resolve_device(name: str | torch.device) -> torch.device:
    """Return the device of a name: auto, cpu, cuda, cuda:1, mps; auto is the GPU where there is one, else the CPU.

    Raises:
        OptionError: when there is no such device here.
    """
    if isinstance(name, torch.device):
        return name
    if name == "auto":
        return pick_device("auto")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(f"--device: {name!r} cannot be used here; take auto or cpu") from error
    return device


def resolve_dtype(name: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Return the type of a name: float32, bfloat16 or, on CUDA, float16.

    Raises:
        OptionError: for another type, or one that the device does not have.
    """
    dtype = DTYPES.get(name) if isinstance(name, str) else name
    if dtype not in DTYPES.values():
        raise OptionError(f"--dtype: must be one of {', '.join(DTYPES)}, got {name!r}")
    if dtype == torch.float16 and device.type != "cuda":
        raise OptionError(f"--dtype: float16 runs on CUDA alone, not on {device.type}; take bfloat16 or float32")
    return dtype  # type: ignore[return-value]


def resolve_tile(tile: Any, overlap: Any) -> tuple[int | Literal["auto"], int]:
    """Return the side of tiles in px ("auto", or 0 for the whole image) and their overlap in px.

    Raises:
        OptionError: when one is out of its range; the overlap is at most half a tile.
    """
    if tile != "auto" and not (tile is None or (isinstance(tile, int) and tile >= 0)):
        raise OptionError(f"--tile: must be auto, 0 (the whole image) or a number of px, got {tile!r}")
    smallest = tile if isinstance(tile, int) and tile > 0 else TILES[-1]
    if not (isinstance(overlap, int) and 0 <= 2 * overlap <= smallest):
        raise OptionError(f"--overlap: must be in [0, {smallest // 2}] for tiles of {smallest} px, got {overlap!r}")
    return tile or 0, overlap


def check_matmul_precision(precision: str) -> None:
    """Check that a precision of float32 products exists.

    Raises:
        OptionError: when it does not.
    """
    if precision not in get_args(MatmulPrecision):
        choices = ", ".join(get_args(MatmulPrecision))
        raise OptionError(f"--matmul_precision: must be one of {choices}, got {precision!r}")
