"""Compare the speed of a network in PyTorch, ONNX Runtime and OpenVINO on the same inputs.

    python scripts/benchmark_runtimes.py --net CATANet-L CATANet-S CATANet-XS CATANet-XS-D --size 64 128 --threads 2

    torch       the network that is trained, in evaluation
    prepared    its form for inference, which basicsr-test and basicsr-infer run
    compiled    torch.compile of the form for inference; minutes of compilation, so only with --compile
    ort         ONNX Runtime on the CPU, the file for any size; `ort static`: the file for this size
    openvino    OpenVINO on the CPU on the file for any size, float32 asked for; `openvino static`: this size

A network is a preset or a file of weights. Presets are untrained and get their token centres from one training forward;
speed does not depend on the weights. `--files` with `--gt` and `--lq` compares ONNX files
for any size instead: bytes, PSNR on the Y channel, and speed in ONNX Runtime.

Every round runs each form once, in turn, so that a machine that slows down slows all of them. Prints medians in
milliseconds as a Markdown table, and the largest difference of each output from PyTorch's.
Needs `pip install basicsr[export]`; a runtime that is not installed is left out.
"""

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from basicsr.archs import build_network
from basicsr.archs.published import read_network
from basicsr.engine.device import keep_freed_memory
from basicsr.engine.run import run_command
from basicsr.errors import OptionError
from basicsr.images.files import list_images, read_image, to_pixels, to_tensor
from basicsr.metrics.psnr_ssim import calculate_psnr
from basicsr.runtimes.trace import for_graph, side_rule, traced
from basicsr.text import tolerate_encoding

Forward = Callable[[np.ndarray], np.ndarray]
OPSET = 20


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 0: the table is printed, 2: a mistake in the arguments."""
    tolerate_encoding()
    args = _parser().parse_args(argv)

    def body() -> None:
        if find_spec("onnx") is None or find_spec("onnxruntime") is None or find_spec("onnxscript") is None:
            raise OptionError("needs onnx, onnxscript and onnxruntime; pip install 'basicsr[export]'")
        if args.rounds < 1 or min(args.size) < 1:
            raise OptionError("--rounds, --size: must be at least 1")
        keep_freed_memory()
        torch.set_num_threads(args.threads)
        print(_head(args), flush=True)
        if args.files:
            _compare_files(args)
            return
        rows: dict[str, dict[str, str]] = {}
        for name in args.net:
            for column, cells in _measure_forms(name, args).items():
                rows.setdefault(column, {}).update(cells)
        _print_table(rows)

    return run_command("benchmark_runtimes", body)


def _head(args: argparse.Namespace) -> str:
    versions = []
    for package in ("torch", "onnxruntime", "openvino"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"no {package}")
    return f"{', '.join(versions)}; {_processor()}; {args.threads} threads; medians of {args.rounds} rounds, in ms\n"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _measure_forms(name: str, args: argparse.Namespace) -> dict[str, dict[str, str]]:
    """Return the milliseconds of every form of a network, by "network, size" and form."""
    net = _network(name, args.scale)
    channels = next(p for p in net.parameters() if p.ndim == 4).shape[1]
    rule = side_rule(net)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        dynamic = None if args.static_only else _saved(net, channels, None, rule, Path(folder))
        for side in args.size:
            forms = _torch_forms(net, args.compile)
            static = _saved(net, channels, (side, side), rule, Path(folder))
            for label, path in (("", dynamic), (" static", static)):
                if path is not None and (label or (side >= rule[0] and side % rule[1] == 0)):
                    forms |= _file_forms(path, label, args.threads)
            lq = np.random.default_rng(0).random((1, channels, side, side), dtype=np.float32)
            found[f"{Path(name).stem}, {side}x{side}"] = _in_turns(forms, lq, args.rounds)
    return found


def _network(name: str, scale: int) -> nn.Module:
    if Path(name).suffix:
        return read_network(name)[0].eval()
    torch.manual_seed(0)
    net = build_network({"type": name, "upscale": scale})
    if name.startswith("CATANet"):
        net.train()(torch.rand(1, 3, 64, 64))
    return net.eval()


def _saved(net: nn.Module, channels: int, size: tuple[int, int] | None, rule: tuple[int, int], folder: Path) -> Path:
    import onnx

    from basicsr.runtimes.onnx import check_model, onnx_model

    start = time.perf_counter()
    model = onnx_model(traced(for_graph(net), channels, size, rule), OPSET)
    check_model(model, size, OPSET)
    path = folder / f"{size[0] if size else 'any'}.onnx"
    onnx.save(model, path)
    seconds = time.perf_counter() - start
    print(f"exported {type(net).__name__} for {size or 'any size'} in {seconds:.0f} s", file=sys.stderr, flush=True)
    return path


def _torch_forms(net: nn.Module, is_compiled: bool) -> dict[str, Forward]:
    modules: dict[str, Any] = {"torch": net}
    prepare = getattr(net, "prepared", None)
    if callable(prepare):
        modules["prepared"] = prepare()
    if is_compiled:
        modules["compiled"] = torch.compile(modules.get("prepared", net))

    def forward(module: Any) -> Forward:
        def run(lq: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return module(torch.from_numpy(lq)).numpy()

        return run

    return {label: forward(module) for label, module in modules.items()}


def _file_forms(path: Path, label: str, threads: int) -> dict[str, Forward]:
    from basicsr.runtimes.onnx import OnnxNet

    ort = OnnxNet(path, threads)
    forms: dict[str, Forward] = {f"ort{label}": lambda lq: ort(lq)[0]}
    if find_spec("openvino") is not None:
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        forms[f"openvino{label}"] = lambda lq: compiled([lq])[0]
    return forms


def _in_turns(forms: dict[str, Forward], lq: np.ndarray, rounds: int) -> dict[str, str]:
    """Return median milliseconds and largest error of every form; "-", with the reason on stderr, where it fails."""
    reference = forms["torch"](lq)
    cells, errors = {}, {}
    for form, run in list(forms.items()):
        try:
            for _ in range(2):  # the first runs take memory and choose kernels
                errors[form] = float(np.abs(run(lq) - reference).max())
        except Exception as error:  # noqa: BLE001 the other runtimes go on
            print(f"{form}: {type(error).__name__}: {str(error)[:300]}", file=sys.stderr, flush=True)
            cells[form] = "-"
            del forms[form]
    samples: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(rounds):
        for form, run in forms.items():
            start = time.perf_counter()
            run(lq)
            samples[form].append(1000 * (time.perf_counter() - start))
    for form, values in samples.items():
        cells[form] = f"{median(values):.0f} ({errors[form]:.0e})" if form != "torch" else f"{median(values):.0f}"
    return cells


def _compare_files(args: argparse.Namespace) -> None:
    """Print bytes, PSNR and speed of ONNX files for any size."""
    from basicsr.runtimes.onnx import OnnxNet

    if args.gt is None or args.lq is None:
        raise OptionError("--files: needs folders of ground truth and inputs, --gt and --lq")
    nets = {path: OnnxNet(path, args.threads) for path in args.files}
    pairs = list(zip(list_images(args.gt), list_images(args.lq), strict=True))
    scores: dict[str, list[float]] = {path: [] for path in nets}
    for gt_name, lq_name in pairs:
        gt, lq = read_image(Path(args.gt, gt_name)), to_tensor(read_image(Path(args.lq, lq_name)))[None].numpy()
        for path, net in nets.items():
            sr = to_pixels(torch.from_numpy(net(lq)[0]))
            scale = sr.shape[0] // lq.shape[2]
            gt_cut = gt[: sr.shape[0], : sr.shape[1]]
            scores[path].append(calculate_psnr(sr, gt_cut, crop_border=scale, input_order="HWC", test_y_channel=True))
    lq = np.random.default_rng(0).random((1, 3, args.size[0], args.size[0]), dtype=np.float32)
    samples: dict[str, list[float]] = {path: [] for path in nets}
    for i in range(args.rounds + 1):
        for path, net in nets.items():
            start = time.perf_counter()
            net(lq)
            if i:  # the first run takes memory
                samples[path].append(1000 * (time.perf_counter() - start))
    print(f"| file | bytes | PSNR, {len(pairs)} images | ms, {args.size[0]}x{args.size[0]} |\n|---|---|---|---|")
    for path in nets:
        size, psnr = Path(path).stat().st_size, sum(scores[path]) / len(pairs)
        print(f"| {Path(path).name} | {size:,} | {psnr:.3f} | {median(samples[path]):.0f} |")


def _print_table(rows: dict[str, dict[str, str]]) -> None:
    columns: Sequence[str] = list(dict.fromkeys(form for cells in rows.values() for form in cells))
    print("| network, input | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, cells in rows.items():
        print(f"| {name} | " + " | ".join(cells.get(form, "") for form in columns) + " |")
    print("\nIn brackets: the largest difference from PyTorch's output of values in [0, 1].")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    nets = ["CATANet-L", "CATANet-S", "CATANet-XS", "CATANet-XS-D"]
    parser.add_argument("--net", nargs="+", default=nets, metavar="NET", help="presets, or files of weights")
    parser.add_argument("--scale", type=int, default=4, metavar="N", help="of presets (default: 4)")
    parser.add_argument("--size", nargs="+", type=int, default=[64, 128], metavar="N", help="sides of inputs in px")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="default: 2")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="default: 15")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile, too")
    parser.add_argument("--static-only", action="store_true", help="leave out files for any size")
    parser.add_argument(
        "--files", nargs="+", metavar="FILE", help="ONNX files for any size, compared by PSNR and speed"
    )
    parser.add_argument("--gt", metavar="FOLDER", help="ground truth for --files")
    parser.add_argument("--lq", metavar="FOLDER", help="inputs for --files, in the order of the ground truth")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
