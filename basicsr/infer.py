"""Enlarge or clean images and videos: `basicsr-infer -i photo.jpg`, or `python inference.py -i photo.jpg`.

Inputs are files, folders, patterns ('*.jpg') and - for an image from standard input; -o - writes to standard output.

Without --model and --task, a network for photographs (JPEG) that is part of this package enlarges 4 times, or with
--scale 2 twice. The other tasks have published networks, which are read from experiments/pretrained_models/ under their
published names. A file of --model names its own network; a published one without that entry is known by its weights.
Outputs go to the folder -o as <name>_<network>_<task>_SRx<scale> with the suffix of the input, without the task where
--model alone is given; existing files of these names stay as they are without --overwrite. They have 8 bits (or
--bits 16), rounded; JPEG has quality 95. Outputs carry the colour profile, camera and date of their inputs, not the
location; those of videos their sound, subtitles and chapters. docs/inference.md describes more.
"""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from basicsr.errors import CheckpointError, OptionError
from basicsr.inference.request import Request, check_network, check_request, output_label
from basicsr.inference.tasks import PHOTO, TASKS, list_tasks
from basicsr.inference.video.formats import CODECS, check_codec_options
from basicsr.text import tolerate_encoding

if TYPE_CHECKING:
    from basicsr.inference.comparison import Box

logger = logging.getLogger("basicsr")
T = TypeVar("T")
MAX_NAMED = 10  # files in a message


def main(argv: list[str] | None = None) -> int:
    """Run the command `basicsr-infer`.

    Returns:
        0: all outputs are there, 1: some are not, which it names, 2: none was tried, 130 and 143: stopped by Ctrl-C or
        SIGTERM; outputs that were finished by then are whole, others are absent.
    """
    tolerate_encoding()
    args = _parser().parse_args(argv)
    from basicsr.engine.run import run_command  # imports torch, which --help should not wait for

    failed: list[str] = []
    return run_command("basicsr-infer", lambda: failed.extend(infer(args))) or (1 if failed else 0)


def infer(args: argparse.Namespace) -> list[str]:
    """Write the outputs that a command line asks for; returns the inputs that have none.

    Raises:
        OptionError: when an option does not fit the others or the network.
        CheckpointError: when there are no weights, or they do not fit.
        FileNotFoundError: when there is no input.
        RunStoppedError: on Ctrl-C or SIGTERM.
    """
    from basicsr.inference.settings import OutputSettings
    from basicsr.inference.streams import piped

    OutputSettings(args.bits, args.color, args.keep_location, args.output_quality)  # mistakes are told at once
    check_codec_options(args.codec, args.crf, args.preset)
    with piped(args.input, args.output) as (inputs, output):
        return _infer(args, check_request(args), inputs, Path(output))


def _infer(args: argparse.Namespace, request: Request, inputs: list[str], output: Path) -> list[str]:
    """Write the outputs for inputs into a folder; see `infer`."""
    from basicsr.inference.inputs import find_inputs
    from basicsr.inference.jobs import check_output_folder, plan_jobs, run_jobs
    from basicsr.inference.settings import OVERLAP
    from basicsr.inference.upscaler import Upscaler

    check_output_folder(output)
    sources, unknown = find_inputs(inputs)
    if args.output == "-" and (len(sources) > 1 or args.compare):
        raise OptionError(f"-o -: takes one picture without --compare, got {len(sources)} inputs; name a folder")
    if not request.model.exists():
        hint = "put the published file there, or name another by --model"
        hint = "it is part of this package, which has to be installed again" if request.task == PHOTO else hint
        raise CheckpointError(f"{request.model}: no such file; {'check the path' if args.model else hint}")
    if not (args.model or args.task):
        choice = "--model and --task choose others"
        logger.info("%s, for photographs (JPEG), enlarges %d times; %s", request.model.stem, request.scale, choice)
    upscaler = Upscaler.from_checkpoint(
        request.model,
        device=args.device,
        dtype=args.dtype,
        tile=args.tile,
        overlap=OVERLAP if args.overlap is None else args.overlap,
        self_ensemble=args.self_ensemble,
        memory=args.memory,
        matmul_precision=args.matmul_precision,
    )
    check_network(upscaler, request)
    label = output_label(upscaler, request) if args.suffix is None else args.suffix
    failed = run_jobs(upscaler, plan_jobs(sources, label, upscaler.channels, args, output), args)
    if failed:
        names = ", ".join(job.name for job in failed)
        logger.error("%d of %d inputs could not be processed: %s", len(failed), len(sources), names)
    if unknown:
        shown = ", ".join(unknown[:MAX_NAMED]) + (", ..." if len(unknown) > MAX_NAMED else "")
        logger.error(
            "%d files of unknown type have no output; convert them, or move them away: %s", len(unknown), shown
        )
    return [*(job.name for job in failed), *unknown]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="basicsr-infer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(list_tasks()),
    )
    add = parser.add_argument
    add(
        "-i",
        "--input",
        required=True,
        nargs="+",
        action="extend",
        metavar="PATH",
        help="images, videos, folders with subfolders, patterns such as '*.jpg'; -: an image from standard input",
    )
    add(
        "-o",
        "--output",
        default="results/test/",
        metavar="FOLDER",
        help="for outputs; -: standard output (default: results/test/)",
    )
    add("--scale", type=int, metavar="N", help="enlargement (default: 4, with --model the model's)")
    add("--task", choices=list(TASKS), help="default: photo, with --model the one of the model")
    add("--sigma", type=float, metavar="N", help="noise that the input has, in 8-bit levels; none is added")
    add("--quality", type=int, metavar="Q", help="of the JPEG file that the input is or was")
    add("--model", metavar="FILE", help="weights (default: the file of the task)")
    add("--device", default="auto", help="auto (the GPU where there is one), cpu, cuda, cuda:1, mps")
    add(
        "--dtype",
        default="float32",
        choices=["float32", "bfloat16", "float16"],
        help="of the network; float16 on CUDA alone (default: float32)",
    )
    add(
        "--matmul_precision",
        default="highest",
        choices=["highest", "high", "medium"],
        help="of float32 on a GPU: highest, high (TF32, faster) or medium (default: highest)",
    )
    add(
        "--tile",
        type=_tile,
        default="auto",
        metavar="auto|N",
        help="side of the tiles in px of the input; 0: none; auto: none where memory suffices (default)",
    )
    add("--overlap", type=int, metavar="N", help="px of the input that tiles share, and over which they are blended")
    add("--memory", type=_memory, metavar="SIZE", help="for --tile auto: 2G or 800M (default: all that is free)")
    add("--batch", type=_count, default=1, metavar="N", help="images of equal size done together")
    add("--self_ensemble", action="store_true", help="mean over 8 flips and rotations, in 8 times the time")
    _add_output_options(parser)
    return parser


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how outputs are written."""
    add = parser.add_argument
    add("--codec", metavar="NAME", help=f"of videos: {', '.join(CODECS)} (default: by the suffix of the output)")
    add(
        "--crf", type=int, metavar="N", help="quality of videos, in the codec's own numbers: lower is better and larger"
    )
    add("--preset", metavar="NAME", help="of the codec, between fast and thorough")
    add("--resume", action="store_true", help="go on with videos that a run has left unfinished")
    add("--bits", type=int, choices=[8, 16], default=8, help="of a channel of output images")
    add("--ext", type=_suffix, metavar="png", help="format of the outputs (default: that of the input)")
    add("--color", choices=["keep", "srgb"], default="keep", help="keep the colour profile (default), or convert by it")
    add("--keep-location", action="store_true", help="keep GPS positions and names of places, which are removed else")
    add("--output-quality", type=int, metavar="Q", help="1 to 100: JPEG (default: 95), AVIF (90), WebP (lossless)")
    add("--suffix", metavar="TEXT", help="added to names instead of _<network>_SRx<scale>")
    add("--overwrite", action="store_true", help="replace outputs that exist")
    add("--compare", action="store_true", help="also write <output>_compare.png: bicubic and output, with zooms")
    add("--crop", type=_crop, metavar="X,Y,W,H", help="part that --compare zooms, in px of the input")


def _tile(text: str) -> str | int:
    if text != "auto" and not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be auto, 0 or a number of px, got {text!r}")
    return text if text == "auto" else int(text)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text!r}")
    return int(text)


# The values of these options are parsed by modules that import torch, so only where one is given.


def _memory(text: str) -> int:
    from basicsr.inference.memory import parse_bytes

    return _parsed(parse_bytes, text)


def _crop(text: str) -> "Box":
    from basicsr.inference.comparison import parse_box

    return _parsed(parse_box, text)


def _suffix(text: str) -> str:
    from basicsr.inference.inputs import OUTPUT_MEDIA_SUFFIXES

    suffix = f".{text.lower().lstrip('.')}"
    if suffix not in OUTPUT_MEDIA_SUFFIXES:
        known = " ".join(known[1:] for known in OUTPUT_MEDIA_SUFFIXES)
        raise argparse.ArgumentTypeError(f"must be one of {known}, got {text!r}")
    return suffix


def _parsed(parse: Callable[[str], T], text: str) -> T:
    """Return what `parse` makes of a text; its ValueError becomes one that argparse shows."""
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    raise SystemExit(main())
