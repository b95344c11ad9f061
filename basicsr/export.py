"""Write a trained network as files for browsers, desktops and phones: `basicsr-export -m weights.pth -o folder`.

    --for web       (default) ONNX, one file for any size and one for tiles of 64x64 px, which WebGPU takes
    --for desktop   ONNX, one file for any size
    --for phone     ExecuTorch, one file for tiles of 64x64 px

--format, --tile, --dynamic and --no-dynamic choose by themselves. A file of weights names its own network; a published
one without that entry is known by its weights. Every file is run and compared with PyTorch before it is put in place,
with a manifest.json that describes its use. Needs `pip install basicsr[export]`, for phones `basicsr[executorch]`.
"""

import argparse
import json
import logging
from typing import Any

from basicsr.errors import CheckpointError, OptionError
from basicsr.runtimes.request import TARGETS, Request, check_request, planned_files
from basicsr.text import ERRORS, tolerate_encoding

logger = logging.getLogger("basicsr")


def main(argv: list[str] | None = None) -> int:
    """Run the command `basicsr-export`.

    Returns:
        0: all files are written, 1: one differs from PyTorch, 2: a mistake in the request. Unless it returns 0, no file
        is written.
    """
    tolerate_encoding()
    args = _parser().parse_args(argv)
    from basicsr.engine.run import run_command  # imports torch, which --help should not wait for

    def body() -> None:
        export(check_request(args))

    return run_command("basicsr-export", body)


def export(request: Request) -> dict[str, Any]:
    """Write the files and the manifest; returns the manifest.

    Raises:
        OptionError: when an option does not fit the network, or files exist.
        CheckpointError: when weights or photographs do not fit.
        ParityError: when the output of a file differs from PyTorch's.
    """
    from basicsr.runtimes.build import (
        BuiltFile,
        build_file,
        calibration_inputs,
        check_file,
        read_export_network,
        read_photo,
    )
    from basicsr.runtimes.manifest import MANIFEST, manifest, write_together
    from basicsr.runtimes.parity import ParityError, table
    from basicsr.runtimes.trace import check_torch_version

    check_torch_version()
    if not request.model.exists():
        raise CheckpointError(f"{request.model}: no such file; check the path")
    planned = list(planned_files(request))
    names = [*(spec.name for spec in planned), MANIFEST]
    existing = [name for name in names if (request.output / name).exists()]
    if existing and not request.overwrite:
        raise OptionError(f"{request.output}: holds {', '.join(existing)}; name another folder, or give --overwrite")
    network = read_export_network(request.model)
    photo = read_photo(request.photo, network.channels)
    calibration = calibration_inputs(request.calibrate, network) if request.calibrate else []
    files: list[BuiltFile] = []
    for spec in planned:
        logger.info("Making %s", spec.name)
        file = build_file(spec, network, request.opset, files, calibration)
        faults = check_file(file, network, photo)
        files.append(file)
        if faults:
            logger.error("%s", table({item.spec.name: item.parity for item in files}))
            hint = ""
            if all(agreement.is_explained for agreement in file.parity):
                hint = "; only tokens at ties went another way, so try another --photo"
            raise ParityError(f"{spec.name}: differs from PyTorch: {'; '.join(faults)}; no file was written{hint}")
    content = manifest(network, request.model, files, photo.name)
    text = (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode("utf-8", ERRORS)
    write_together(request.output, {**{file.spec.name: file.data for file in files}, MANIFEST: text})
    logger.info("Parity with PyTorch:\n%s", table({file.spec.name: file.parity for file in files}))
    for file in files:
        path, size, nodes = request.output / file.spec.name, len(file.data), file.facts["nodes"]
        logger.info("%s, %d bytes, %d nodes", path, size, nodes)
    return content


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="basicsr-export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model", required=True, metavar="FILE", help="weights, .pth or .safetensors")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="for the files and manifest.json")
    parser.add_argument("--for", dest="target", choices=list(TARGETS), default="web", help="default: web")
    parser.add_argument("--format", nargs="+", choices=["onnx", "pte"], help="onnx, pte (ExecuTorch), or both")
    parser.add_argument("--tile", nargs="*", type=int, metavar="N", help="sides in px of files for tiles of one size")
    parser.add_argument(
        "--dynamic", action=argparse.BooleanOptionalAction, default=None, help="an ONNX file for inputs of any size"
    )
    parser.add_argument("--opset", type=int, default=20, choices=range(18, 24), metavar="N", help="ONNX (default: 20)")
    parser.add_argument(
        "--dtype",
        nargs="+",
        choices=["float32", "float16"],
        default=["float32"],
        help="of weights; float16 halves those of convolutions and FFNs (default: float32)",
    )
    parser.add_argument("--int8", action="store_true", help="also files with 8-bit weights and activations")
    parser.add_argument("--calibrate", metavar="FOLDER", help="photographs by which --int8 finds ranges")
    parser.add_argument(
        "--photo", metavar="FILE", help="for the comparison with PyTorch (default: one of scikit-image's, or drawn)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
