"""Videos from file to file: frames per second, and what decoding and encoding cost beside the network."""

import argparse
import importlib.util
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch

from basicsr.errors import OptionError
from basicsr.images.files import read_image
from basicsr.inference.upscaler import Upscaler
from basicsr.inference.video.encoder import frame_of, plan_encoding
from basicsr.inference.video.formats import codec_for
from basicsr.inference.video.library import load_av
from basicsr.inference.video.network import Network, network_of
from basicsr.inference.video.pipeline import VideoReport, VideoSettings, enlarge_video
from basicsr.inference.video.probe import picture_facts
from basicsr.inference.video.reader import Planes
from benchmarks.config import Config, Row, Size, build_net, channels_of
from benchmarks.report import Result
from benchmarks.timing import synchronise

RATE = 24  # frames a second of the source
NETWORK_RUNS = 5  # forwards of the network alone, after one of warm-up
NOTES = [
    "fps: of the whole run, from file to file; the median of the runs. network alone: frames / median forward of a "
    "batch that lies on the device. cost of video: 1 - fps / network alone, what reading, converting and writing add.",
    "shares: of the seconds in which each stage was at work. They overlap, and encoders that work in threads of their "
    "own show only the time for which they make theirs wait.",
    "The source, unless --input names one, is a photograph that moves, H.264 4:2:0.",
]


def video(args: argparse.Namespace) -> Result:
    """Measure videos from file to file."""
    config: Config = args.configs[0]
    codec_for(f"output.{args.ext}", args.codec)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in args.size:
            source = args.input or write_source(Path(folder) / f"{size}.mp4", size, args.frames)
            rows.append(row_of(config, source, Path(folder) / f"output.{args.ext}", args))
    return Result(rows, NOTES)


def row_of(config: Config, source: Path, target: Path, args: argparse.Namespace) -> Row:
    """Return the row of one source; the first run is warm-up."""
    upscaler = upscaler_of(config)
    settings = VideoSettings(args.batch, args.codec, args.crf, args.preset, overwrite=True)
    network = network_of(upscaler)
    reports = [enlarge_video(source, target, network, settings) for _ in range(args.runs + 1)][1:]
    report = sorted(reports, key=lambda one: one.frames_per_second)[len(reports) // 2]
    size = Size(report.width // upscaler.upscale, report.height // upscaler.upscale)
    alone = args.batch / network_seconds(network, size, args.batch)
    net = upscaler.net
    facts = {key: value for key, value in config.facts(net, size).items() if key not in ("form", "mode")}
    fps = median(one.frames_per_second for one in reports)
    cost = {"network_alone_fps": alone, "fps": fps, "cost_of_video": 1 - fps / alone}
    return {**facts, "encoder": report.encoding, "batch": args.batch, "frames": report.frames, **cost, **shares(report)}


def shares(report: VideoReport) -> Row:
    """Return the shares of the work."""
    total = sum(report.work.values())
    return {f"{stage}_share": seconds / total for stage, seconds in report.work.items()}


def upscaler_of(config: Config) -> Upscaler:
    """Return the network of a configuration as inference runs it."""
    settings = {"device": config.device, "dtype": config.dtype, "matmul_precision": config.precision}
    net = build_net(config)
    spec = {"type": Path(config.net).stem, "upscale": getattr(net, "upscale", 1), "in_chans": channels_of(net)}
    return Upscaler(net, spec, **settings)  # type: ignore[arg-type]


def network_seconds(network: Network, size: Size, batch: int) -> float:
    """Return the median seconds of a forward of `batch` pictures that lie on the device."""
    pictures = torch.rand(batch, network.channels, size.height, size.width, device=network.device)
    tile = network.tile_for(size.height, size.width, count=batch)
    samples = []
    for _ in range(NETWORK_RUNS + 1):
        start = time.perf_counter()
        network.run(pictures, tile)
        synchronise(network.device.type)
        samples.append(time.perf_counter() - start)
    return median(samples[1:])


def write_source(path: Path, size: Size, frames: int) -> Path:
    """Write a video of a photograph that moves by two pixels a frame.

    Raises:
        OptionError: without scikit-image, whose wheel holds the photograph.
    """
    found = importlib.util.find_spec("skimage")
    if found is None or not found.submodule_search_locations:
        raise OptionError("--input: name a video, or install scikit-image, whose photograph is taken otherwise")
    photo = read_image(Path(found.submodule_search_locations[0]) / "data/coffee.png")
    wide = cv2.resize(photo, (size.width + 2 * frames, size.height), interpolation=cv2.INTER_CUBIC)
    facts = picture_facts(path, size.height, size.width, Fraction(RATE))
    encoding = plan_encoding(facts, 1, path, "h264", None, None)
    with load_av().open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=RATE)
        stream.width, stream.height = encoding.width, encoding.height
        for k in range(frames):
            frame = frame_of(planes_of(wide[:, 2 * k : 2 * k + size.width]), encoding)
            frame.pts = k
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def planes_of(picture: np.ndarray) -> Planes:
    """Return the planes of YUV 4:2:0 (BT.601) of RGB pixels."""
    even = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
    height, width = even.shape[:2]
    flat = cv2.cvtColor(np.ascontiguousarray(even), cv2.COLOR_RGB2YUV_I420).reshape(-1)
    luma, quarter = height * width, height * width // 4
    return [
        flat[:luma].reshape(height, width),
        flat[luma : luma + quarter].reshape(height // 2, width // 2),
        flat[luma + quarter :].reshape(height // 2, width // 2),
    ]
