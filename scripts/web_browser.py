"""Drive the prepared site of the phone demo in headless Chromium: times, memory, and the pictures of docs/web.md."""

import json
import os
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from web_memory import MemoryWatch
from web_tools import REPOSITORY, WebError, run, shown

PHOTO_HOURS = 3  # that one photograph may take


def measure(site: Path, driver: Path, folder: Path) -> str:
    """Time the site in headless Chromium, CPU build; return a Markdown table, a row per number of threads.

    Args:
        site: prepared by scripts/web.py.
        driver: folder of playwright-core.
        folder: for what the browser reads and writes.

    Raises:
        WebError: when the browser stops.
    """
    threads = sorted({1, min(4, os.cpu_count() or 1)})
    results = drive(site, driver, folder, "measure", {"threads": threads, "liveMs": 15000})
    head = "| backend | threads | per tile | 224 × 224 photo | live | live size |\n|---|---|---|---|---|---|\n"
    rows = ("| " + " | ".join(str(value) for value in row.values()) + " |" for row in results["rows"])
    return head + "\n".join(rows)


def measure_photo(site: Path, driver: Path, folder: Path, photo: Path, scale: int) -> str:
    """Enlarge one photograph in headless Chromium, reload, and save it; return what that took, as Markdown.

    The files are left in `folder`: photograph.png and photograph.jpg.

    Raises:
        WebError: when there is no such photograph, or the browser stops.
    """
    if not photo.is_file():
        raise WebError(f"{photo}: no such photograph")
    more = {"photo": photo.resolve(), "scale": scale, "photoMs": PHOTO_HOURS * 3_600_000, "drawMs": 10_000}
    with MemoryWatch() as memory:
        results = drive(site, driver, folder, "photograph", more)
    told = results["told"]
    silences = [later[0] - earlier[0] for earlier, later in pairwise(told)]
    lines = [results["question"] or "(no question)", *(f"- {what}: {detail}" for what, detail in results["offers"])]
    lines += [f"- {name}: {value}" for name, value in results["facts"].items()]
    lines.append(f"- {len(told)} changes of the progress, the longest silence {max(silences, default=0) / 1000:.1f} s")
    lines += ["", "| phase | seconds | browser, peak | page, peak |", "|---|---|---|---|"]
    for phase in results["phases"]:
        start, end = phase["start"] / 1000, phase["end"] / 1000
        sizes = " | ".join(f"{size / 1e6:.0f} MB" for size in memory.peaks(start, end))
        lines.append(f"| {phase['name']} | {end - start:.0f} | {sizes} |")
    return "\n".join(lines)


def take_pictures(site: Path, driver: Path, folder: Path, pictures: Path) -> None:
    """Make the pictures of docs/web.md in `pictures`, screenshots of the site, each in at most 200 kB.

    Raises:
        WebError: when the browser stops.
    """
    results = drive(site, driver, folder, "pictures", {})
    pictures.mkdir(parents=True, exist_ok=True)
    for name in results["names"]:
        with Image.open(folder / f"{name}.png") as shot:
            width = 800 if name == "desktop" else 480
            small = shot.convert("RGB").resize((width, shot.height * width // shot.width), Image.Resampling.LANCZOS)
        palette = small.quantize(240, method=Image.Quantize.MAXCOVERAGE)
        small.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(
            pictures / f"{name}.png", optimize=True
        )
        print(f"{shown(pictures / name)}.png: {(pictures / f'{name}.png').stat().st_size} bytes")


def drive(site: Path, driver: Path, folder: Path, scenario: str, more: dict[str, Any]) -> dict[str, Any]:
    """Run a scenario of tests/web/drive.mjs on the site, with more entries for its configuration; return its results.

    Raises:
        WebError: when the browser stops.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with Image.open(site / "sample.png") as sample:
        photo = sample.convert("RGB")
    photo.resize((224, 224)).save(folder / "measure.png")  # four tiles
    photo.resize((4032, 3024)).save(folder / "large.jpg")
    planes = photo.resize((640, 480)).convert("YCbCr").split()
    frame = b"".join(plane.resize((640 >> i, 480 >> i)).tobytes() for plane, i in zip(planes, (0, 1, 1), strict=True))
    (folder / "camera.y4m").write_bytes(
        b"YUV4MPEG2 W640 H480 F30:1 Ip A1:1 C420jpeg\n" + b"".join(b"FRAME\n" + frame for _ in range(4))
    )
    config = {
        "playwright": driver,
        "chromium": shutil.which("chromium"),
        "python": sys.executable,
        "site": site.resolve(),
        "inputs": folder,
        "output": folder,
        "shots": folder,
        "scenarios": [scenario],
        "timeout": 180000,
        **more,
    }
    (folder / "config.json").write_text(json.dumps(config, default=str), encoding="utf-8")
    run(["node", str(REPOSITORY / "tests/web/drive.mjs"), str(folder / "config.json")])
    results: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))[scenario]
    if "error" in results:
        raise WebError(f"the browser stopped: {results['error'].splitlines()[0]}")
    return results
