"""Error of output in tiles against that of the whole image: `python scripts/tile_error.py -m weights.pth -i images`.

Prints a Markdown table for each network: a row for each overlap, a column for each side of tiles, in a cell the PSNR in
dB between tiled and whole output (all channels, floats clamped to [0, 1]) and, in brackets, by how much the PSNR
against the original changes. Images are originals, which are shrunk by MATLAB's bicubic to make the inputs, or with
--inputs the inputs themselves. Those that fit into one tile do not count for that column.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from basicsr.engine.run import run_command
from basicsr.images.files import list_images, read_image, to_tensor
from basicsr.images.matlab_resize import imresize
from basicsr.images.tiling import predict_in_tiles
from basicsr.inference.settings import OVERLAP
from basicsr.inference.upscaler import Upscaler
from basicsr.text import tolerate_encoding


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 0: the tables are printed."""
    tolerate_encoding()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", nargs="+", required=True, metavar="FILE", help="weights")
    parser.add_argument("-i", "--images", nargs="+", required=True, metavar="PATH", help="originals: files or folders")
    parser.add_argument("--inputs", action="store_true", help="the images are inputs, and there are no originals")
    parser.add_argument("--limit", type=int, metavar="N", help="images of each folder, at most")
    parser.add_argument("--side", type=int, default=320, metavar="PX", help="inputs are cut to this (default: 320)")
    parser.add_argument("--tile", type=int, nargs="+", default=[64, 96, 128, 192, 256], metavar="PX")
    parser.add_argument("--overlap", type=int, nargs="+", default=[0, 8, 16, 32, 48], metavar="PX")
    parser.add_argument("--hard", action="store_true", help="cut in the middle of the overlap instead of blending")
    args = parser.parse_args(argv)
    return run_command("tile_error", lambda: _print_tables(args))


@dataclass(frozen=True)
class Sample:
    """An image to measure on."""

    lq: Tensor
    """(1, 3, H, W)."""
    whole: Tensor
    """The output for the whole image, (1, 3, s*H, s*W)."""
    gt: Tensor | None
    """The original, (1, 3, s*H, s*W)."""


def tile_errors(upscaler: Upscaler, samples: list[Sample], tile: int, overlap: int, feather: int) -> str:
    """Return a cell: mean PSNR of tiled to whole output and, in brackets, mean change of the PSNR to the original.

    "" when no image is larger than a tile.
    """
    between, change = [], []
    for sample in samples:
        if max(sample.lq.shape[-2:]) <= tile:
            continue
        tiled = predict_in_tiles(upscaler.predict, sample.lq, tile, overlap, feather)
        between.append(psnr(tiled, sample.whole))
        if sample.gt is not None:
            change.append(psnr(tiled, sample.gt) - psnr(sample.whole, sample.gt))
    if not between:
        return ""
    return f"{np.mean(between):.1f}" + (f" ({np.mean(change):+.3f})" if change else "")


def psnr(a: Tensor, b: Tensor) -> float:
    """Return the PSNR in dB of images in [0, 1]; inf where they are equal."""
    error = float((a.clamp(0, 1) - b.clamp(0, 1)).double().square().mean())
    return -10 * math.log10(error) if error > 0 else math.inf


def _print_tables(args: argparse.Namespace) -> None:
    for model in args.model:
        upscaler = Upscaler.from_checkpoint(model, device="cpu", tile=0)
        samples = _samples(args, upscaler)
        gains = [psnr(sample.whole, sample.gt) for sample in samples if sample.gt is not None]
        score = f", whole image {np.mean(gains):.3f} dB" if gains else ""
        cuts = ", hard cuts" if args.hard else ""
        print(f"\n{upscaler.spec['type']} x{upscaler.upscale}, {model}: {len(samples)} images{score}{cuts}\n")
        print("| overlap | " + " | ".join(f"tile {tile}" for tile in args.tile) + " |")
        print("|---" * (len(args.tile) + 1) + "|")
        for overlap in args.overlap:
            feather = 0 if args.hard else overlap
            cells = [
                tile_errors(upscaler, samples, tile, overlap, feather) if 2 * overlap <= tile else ""
                for tile in args.tile
            ]
            mark = " (default)" if overlap == OVERLAP else ""
            print(f"| {overlap}{mark} | " + " | ".join(cells) + " |", flush=True)


def _samples(args: argparse.Namespace, upscaler: Upscaler) -> list[Sample]:
    paths = []
    for path in map(Path, args.images):
        paths += [path / name for name in list_images(path)[: args.limit]] if path.is_dir() else [path]
    samples = []
    scale = 1 if args.inputs else upscaler.upscale
    for path in paths:
        image = read_image(path)
        height, width = (min(args.side, side // scale) * scale for side in image.shape[:2])
        image = np.ascontiguousarray(image[:height, :width])
        lq = to_tensor(image if args.inputs else imresize(image, 1 / scale))[None]
        samples.append(Sample(lq, upscaler.predict(lq), None if args.inputs else to_tensor(image)[None]))
    return samples


if __name__ == "__main__":
    raise SystemExit(main())
