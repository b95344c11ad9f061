"""Prepares the phone demo in web/: exports a network, fetches the runtime, lists what is kept offline: `make web`.

What is made lies in web/models, web/vendor and web/precache.js, none of it in git. A second run does only what is
missing or out of date. The runtime is onnxruntime-web from npm, in the version and with the checksums of
web/npm.lock.json.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
SITE = REPOSITORY / "web"
CACHE = REPOSITORY / "build/web"
PICTURES = REPOSITORY / "docs/web"
SHIPPED = REPOSITORY / "pretrained_models/CATANet-XS_x4.pth"
TRAINED_BY_DEMO = "experiments/demo_*/models/net_g_*.pth"
EXPORTER = ("export.py", "runtimes/*.py", "archs/**/*.py")  # in basicsr/
RUNTIME = "onnxruntime-web"
BROWSER_DRIVER = "playwright-core"
DEFAULT_TILE = 64
PAGE_FILES = (
    "index.html", "style.css", "app.js", "manifest.webmanifest", "sample.png", "js/*.js", "icons/*.png",
    "models/manifest.json",
)  # fmt: skip
WEBGPU_WORDS = ("webgpu", "asyncify")  # in the names of the runtime's files; the others are for the CPU
TEST_PROGRAMS = {"chromium": "chromium", "node": "nodejs", "npm": "npm"}  # and Debian's packages


class WebError(RuntimeError):
    """A step of the preparation could not be done."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 0: the site is ready to be served."""
    parser = argparse.ArgumentParser(prog="web", description=__doc__)
    parser.add_argument("-m", "--model", type=Path, metavar="FILE", help="weights (default: the shipped CATANet-XS x4)")
    parser.add_argument("--tile", type=int, default=DEFAULT_TILE, metavar="PX", help="side of the tiles (default: 64)")
    parser.add_argument("--site", type=Path, default=SITE, metavar="FOLDER", help="the site (default: web/)")
    parser.add_argument(
        "--cache",
        type=lambda text: Path(text).resolve(),
        default=CACHE,
        metavar="FOLDER",
        help="downloads (default: build/web/)",
    )
    parser.add_argument("--again", action="store_true", help="export the network even if it is up to date")
    parser.add_argument("--icons", action="store_true", help="draw web/icons/ again, and stop")
    parser.add_argument("--measure", action="store_true", help="time the prepared site in Chromium, and stop")
    parser.add_argument("--pictures", action="store_true", help="take the screenshots of docs/web.md again, and stop")
    parser.add_argument("--test-setup", action="store_true", help="install what the browser tests need, and stop")
    args = parser.parse_args(argv)
    if args.tile < 1:
        parser.error("--tile must be at least 1")
    try:
        if args.test_setup:
            set_up_tests(args.cache)
            return 0
        if args.icons:
            draw_icons(args.site / "icons")
            return 0
        if args.measure:
            print(measure(args.site, args.cache))
            return 0
        if args.pictures:
            take_pictures(args.site, args.cache)
            return 0
        lock = read_lock(args.site)
        export_network(args.model or find_model(), args.site / "models", args.tile, args.cache, again=args.again)
        put_runtime(lock, args.site / "vendor", args.cache)
        version = write_precache(args.site)
    except (WebError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(f"\n{args.site} is ready, version {version}. Serve it with\n")
    print(f"  {Path(sys.executable).name} -m http.server -d {shown(args.site)} 8000\n")
    print("and open http://localhost:8000. Phones need https for the camera and for speed: docs/web.md.")
    return 0


def find_model() -> Path:
    """The shipped weights, else the newest that `make demo` trained.

    Raises:
        WebError: when there are neither.
    """
    if SHIPPED.is_file():
        return SHIPPED
    trained = sorted(REPOSITORY.glob(TRAINED_BY_DEMO), key=lambda path: path.stat().st_mtime)
    if not trained:
        raise WebError(f"{shown(SHIPPED)} is missing; give weights with --model FILE, or train some with `make demo`")
    return trained[-1]


def export_network(model: Path, folder: Path, tile: int, cache: Path, *, again: bool = False) -> None:
    """Export `model` into `folder`, as ONNX files and manifest.json, unless just this is there already.

    Raises:
        WebError: when there is no such file or its export fails.
    """
    if not model.is_file():
        raise WebError(f"{model}: no such file; give the weights with --model FILE")
    if not again and is_exported(model, folder, tile):
        print(f"{shown(folder)}: {shown(model)} is exported already")
        return
    fresh = cache / "models"
    shutil.rmtree(fresh, ignore_errors=True)
    run([sys.executable, "-m", "basicsr.export", "-m", str(model), "-o", str(fresh), "--tile", str(tile)])
    if not (fresh / "manifest.json").is_file():
        raise WebError(f"the export of {shown(model)} wrote no manifest.json")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.move(fresh, folder)


def is_exported(model: Path, folder: Path, tile: int) -> bool:
    """Whether `folder` holds the complete export of this weight file with this tile, made by the present exporter."""
    code = max(path.stat().st_mtime for pattern in EXPORTER for path in (REPOSITORY / "basicsr").glob(pattern))
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        is_newer = (folder / "manifest.json").stat().st_mtime > code
        return (
            is_newer
            and manifest["source"]["sha256"] == sha256_of(model)
            and all(
                sha256_of(folder / file["file"]) == file["sha256"] and file["height"] in (None, tile)
                for file in manifest["files"]
            )
        )
    except (OSError, ValueError, LookupError, TypeError):
        return False


def put_runtime(lock: dict[str, Any], folder: Path, cache: Path) -> None:
    """Put the files of onnxruntime-web that the lock names into `folder`, each with the checksum it gives.

    Raises:
        WebError: when npm is missing or gives other files.
    """
    wanted: dict[str, str] = lock[RUNTIME]["files"]
    folder.mkdir(parents=True, exist_ok=True)
    if all((folder / name).is_file() and sha256_of(folder / name) == digest for name, digest in wanted.items()):
        print(f"{shown(folder)}: {RUNTIME} {lock[RUNTIME]['version']} is in place")
        return
    package = fetch_package(lock, RUNTIME, cache)
    for name, digest in wanted.items():
        source = package / "dist" / name
        found = sha256_of(source) if source.is_file() else "none"
        if found != digest:
            raise WebError(
                f"{source}: SHA-256 is {found}, web/npm.lock.json says {digest}; delete {package}, try again"
            )
        shutil.copyfile(source, folder / name)
    if not (folder / "LICENSE").is_file():
        shutil.copyfile(SITE / "vendor/LICENSE", folder / "LICENSE")
    print(f"{shown(folder)}: {RUNTIME} {lock[RUNTIME]['version']} from npm")


def fetch_package(lock: dict[str, Any], name: str, cache: Path) -> Path:
    """Fetch an npm package as locked, verify it, unpack it; returns its folder. No script of the package is run.

    Raises:
        WebError: when npm is missing, fails, or gives another file than the lock describes.
    """
    version, integrity = lock[name]["version"], lock[name]["integrity"]
    folder = cache / f"{name}-{version}"
    if folder.is_dir():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise WebError(
            f"npm, which fetches {name}, is missing; install Node.js: `apt-get install nodejs npm`, `brew install node`"
        )
    cache.mkdir(parents=True, exist_ok=True)
    run([npm, "pack", "--silent", "--ignore-scripts", "--pack-destination", str(cache), f"{name}@{version}"])
    archive = cache / f"{name}-{version}.tgz"
    found = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != integrity:
        archive.unlink()
        raise WebError(f"npm gave another {name} {version} than web/npm.lock.json describes: {found}, not {integrity}")
    unpacked = cache / f"{name}-{version}.part"
    shutil.rmtree(unpacked, ignore_errors=True)
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(unpacked, filter="data")
        else:
            tar.extractall(unpacked)
    shutil.move(unpacked / "package", folder)
    shutil.rmtree(unpacked)
    archive.unlink()
    return folder


def write_precache(site: Path) -> str:
    """Write precache.js, the service worker's list of files with their SHA-256 and group; returns its version.

    Raises:
        WebError: when the site is not complete.
    """
    groups = {
        path.relative_to(site).as_posix(): "page" for pattern in PAGE_FILES for path in sorted(site.glob(pattern))
    }
    for name in read_lock(site)[RUNTIME]["files"]:
        groups[f"vendor/{name}"] = "webgpu" if any(word in name for word in WEBGPU_WORDS) else "wasm"
    manifest = json.loads((site / "models/manifest.json").read_text(encoding="utf-8"))
    for backend in ("webgpu", "wasm"):  # a file for both belongs to the group that every device keeps
        for file in manifest["files"]:
            if backend in file["for"]:
                groups[f"models/{file['file']}"] = backend
    missing = [name for name in groups if not (site / name).is_file()]
    if missing:
        raise WebError(f"{shown(site)} lacks {', '.join(missing)}; run `make web`")
    files = {name: {"sha256": sha256_of(site / name), "group": group} for name, group in sorted(groups.items())}
    version = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:12]
    text = json.dumps({"version": version, "files": files}, indent=1)
    (site / "precache.js").write_text(
        f"// Made by scripts/web.py: what the service worker keeps.\nself.PRECACHE = {text};\n", encoding="utf-8"
    )
    return version


def set_up_tests(cache: Path) -> Path:
    """Install Chromium, Node.js and npm where they are missing, and fetch the browser's driver; returns its folder.

    Raises:
        WebError: when a program is missing and cannot be installed here.
    """
    missing = [package for program, package in TEST_PROGRAMS.items() if shutil.which(program) is None]
    if missing:
        install = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            raise WebError(f"the browser tests need {', '.join(missing)}; on Debian: `{shlex.join(install)}` as root")
        run(["apt-get", "update"])
        run(install)
    return fetch_package(read_lock(SITE), BROWSER_DRIVER, cache)


def measure(site: Path, cache: Path) -> str:
    """Time the prepared site in headless Chromium, CPU build: a table in Markdown, one row per number of threads.

    Raises:
        WebError: when a program is missing, or the site is not prepared.
    """
    threads = sorted({1, min(4, os.cpu_count() or 1)})
    results = drive(site, cache, "measure", {"threads": threads, "liveMs": 15000})
    head = "| backend | threads | per tile | 224 × 224 photo | live | live size |\n|---|---|---|---|---|---|\n"
    rows = ("| " + " | ".join(str(value) for value in row.values()) + " |" for row in results["rows"])
    return head + "\n".join(rows)


def take_pictures(site: Path, cache: Path) -> None:
    """Make the pictures of docs/web.md, screenshots of the prepared site, each in at most 200 kB.

    Raises:
        WebError: when a program is missing, or the site is not prepared.
    """
    from PIL import Image

    results = drive(site, cache, "pictures", {})
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in results["names"]:
        with Image.open(cache / f"drive/{name}.png") as shot:
            width = 800 if name == "desktop" else 480
            small = shot.convert("RGB").resize((width, shot.height * width // shot.width), Image.Resampling.LANCZOS)
        palette = small.quantize(240, method=Image.Quantize.MAXCOVERAGE)
        small.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(
            PICTURES / f"{name}.png", optimize=True
        )
        print(f"{shown(PICTURES / name)}.png: {(PICTURES / f'{name}.png').stat().st_size} bytes")


def drive(site: Path, cache: Path, scenario: str, more: dict[str, Any]) -> dict[str, Any]:
    """Run a scenario of tests/web/drive.mjs on the prepared site; returns what it saw.

    Raises:
        WebError: when a program is missing, the site is not prepared or the browser stops.
    """
    from PIL import Image

    if not (site / "precache.js").is_file():
        raise WebError(f"{shown(site)} is not prepared; run `make web`")
    driver = set_up_tests(cache)
    write_precache(site)
    folder = cache / "drive"
    folder.mkdir(parents=True, exist_ok=True)
    with Image.open(site / "sample.png") as sample:
        photo = sample.convert("RGB")
    photo.resize((224, 224)).save(folder / "measure.png")  # four tiles of 128 px
    photo.resize((4032, 3024)).save(folder / "large.jpg")
    planes = photo.resize((640, 480)).convert("YCbCr").split()
    frame = b"".join(plane.resize((640 >> i, 480 >> i)).tobytes() for plane, i in zip(planes, (0, 1, 1), strict=True))
    (folder / "camera.y4m").write_bytes(
        b"YUV4MPEG2 W640 H480 F30:1 Ip A1:1 C420jpeg\n" + b"".join(b"FRAME\n" + frame for _ in range(4))
    )
    config = {
        "playwright": driver, "chromium": shutil.which("chromium"), "python": sys.executable, "site": site.resolve(),
        "inputs": folder, "output": folder, "shots": folder, "scenarios": [scenario], "timeout": 180000, **more,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, default=str), encoding="utf-8")
    run(["node", str(REPOSITORY / "tests/web/drive.mjs"), str(folder / "config.json")])
    results: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))[scenario]
    if "error" in results:
        raise WebError(f"the browser stopped: {results['error'].splitlines()[0]}")
    return results


def draw_icons(folder: Path) -> None:
    """Draw the icons: a disc that is made of large pixels on the left and smooth on the right."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for name, side, corner, reach in (
        ("icon-192.png", 192, 0.22, 0.34), ("icon-512.png", 512, 0.22, 0.34),
        ("maskable-512.png", 512, 0.0, 0.28), ("apple-touch-180.png", 180, 0.0, 0.32),
    ):  # fmt: skip
        large = icon(4 * side, corner, reach)
        large.resize((side, side), Image.Resampling.BOX).save(folder / name, optimize=True)


def icon(side: int, corner: float, reach: float) -> Image.Image:
    """The icon in `side` px, RGBA; `corner` and `reach`, the radii of its corners and disc, as shares of the side."""
    from PIL import Image, ImageDraw

    night, amber, cream, white = (29, 27, 24), (242, 177, 60), (247, 236, 210), (255, 255, 255)
    image = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((0, 0, side - 1, side - 1), corner * side, fill=night)
    middle, radius = side / 2, reach * side
    cells = 5  # large pixels along the radius
    cell = radius / cells
    draw.pieslice((middle - radius, middle - radius, middle + radius, middle + radius), -90, 90, fill=cream)
    for row in range(-cells, cells):
        for column in range(-cells, 0):
            if (row + 0.5) ** 2 + (column + 0.5) ** 2 <= cells**2:
                x, y = middle + column * cell, middle + row * cell
                draw.rectangle((x, y, x + cell, y + cell), fill=amber)
    half = 0.014 * side
    draw.rectangle((middle - half, middle - 1.28 * radius, middle + half, middle + 1.28 * radius), fill=white)
    return image


def read_lock(site: Path) -> dict[str, Any]:
    """The versions and checksums of what comes from npm."""
    return json.loads((site / "npm.lock.json").read_text(encoding="utf-8"))


def run(command: list[str]) -> None:
    """Run a command in the repository, its output going to our standard error.

    Raises:
        WebError: when it fails, with the command and its exit code.
    """
    print(f"$ {shlex.join(command)}", flush=True)
    code = subprocess.run(command, cwd=REPOSITORY, stdout=2).returncode
    if code:
        raise WebError(f"`{shlex.join(command)}` failed with exit code {code}; its own message stands above")


def sha256_of(path: Path) -> str:
    """The file's SHA-256, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def shown(path: Path) -> str:
    """The path as the user would type it here."""
    return os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    sys.exit(main())
