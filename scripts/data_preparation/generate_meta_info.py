"""List the images of a folder in a text file, for `meta_info_file`: a line `name (height,width,channels)` for each.

Names are relative to the folder. Remove lines to train on fewer images. Images are read as RGB, so there are always
three channels. Only headers and ends of files are read; a damaged image ends the run, and no list is written.
"""

import argparse
import os
from functools import partial
from pathlib import Path

from basicsr.engine.atomic import check_file_target, write_atomically
from basicsr.engine.parallel import in_parallel
from basicsr.images.files import image_size, list_images
from basicsr.text import tolerate_encoding


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0 when the list is written."""
    tolerate_encoding()
    parser = argparse.ArgumentParser(prog="generate_meta_info", description=__doc__)
    parser.add_argument("-i", "--input", type=Path, required=True, help="folder of images, subfolders included")
    parser.add_argument("-o", "--output", type=Path, required=True, help="text file to write")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error("--workers must be at least 1")
    try:
        check_file_target(args.output, "-o")
        names = list_images(args.input)
        if not names:
            raise FileNotFoundError(f"{args.input}: no images; check the path")
        lines = in_parallel(partial(describe, args.input), names, args.workers)
        text = "".join(f"{line}\n" for line in lines)
        write_atomically(args.output, text.encode("utf-8", "surrogateescape"))  # data sets read the names
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(f"{args.output}: {len(names)} images")
    return 0


def describe(folder: Path, name: str) -> str:
    """Return the line of an image."""
    height, width = image_size(folder / name)
    return f"{name} ({height},{width},3)"


if __name__ == "__main__":
    raise SystemExit(main())
