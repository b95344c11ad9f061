"""Prepare the phone demo in web/: export its networks, fetch the runtime, list the files to keep offline: `make web`.

The results are web/models, web/vendor and web/precache.js, none of them in git. A second run makes only what is
missing or out of date. The runtime is onnxruntime-web from npm, in the version and with the checksums of
web/npm.lock.json.
"""

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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from basicsr.inference.tasks import PHOTO, weight_file
from basicsr.text import tolerate_encoding

REPOSITORY = Path(__file__).resolve().parents[1]
SITE = REPOSITORY / "web"
CACHE = REPOSITORY / "build/web"
PICTURES = REPOSITORY / "docs/web"
SHIPPED = tuple(weight_file(PHOTO, scale) for scale in (2, 4))
EXPORTER = ("export.py", "runtimes/*.py", "archs/**/*.py")  # in basicsr/
RUNTIME = "onnxruntime-web"
BROWSER_DRIVER = "playwright-core"
DEFAULT_TILE = 64
PAGE_FILES = (
    "index.html",
    "style.css",
    "app.js",
    "manifest.webmanifest",
    "sample.png",
    "js/*.js",
    "icons/*.png",
    "models/scales.json",
    "models/*/manifest.json",
)
WEBGPU_WORDS = ("webgpu", "asyncify")  # in the names of the runtime's files; the others are for the CPU
TEST_PROGRAMS = {"chromium": "chromium", "node": "nodejs", "npm": "npm"}  # program -> Debian's package


class WebError(RuntimeError):
    """A step of the preparation could not be done."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 0: the site is ready to be served."""
    tolerate_encoding()
    parser = argparse.ArgumentParser(prog="web", description=__doc__)
    parser.add_argument(
        "-m",
        "--model",
        type=Path,
        nargs="+",
        default=SHIPPED,
        metavar="FILE",
        help="weights, one file a scale (default: the shipped networks for photographs, x2 and x4)",
    )
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
            from web_icons import draw_icons  # needs Pillow

            draw_icons(args.site / "icons")
            return 0
        if args.measure:
            print(measure(args.site, args.cache))
            return 0
        if args.pictures:
            take_pictures(args.site, args.cache)
            return 0
        lock = read_lock(args.site)
        export_networks(args.model, args.site / "models", args.tile, args.cache, again=args.again)
        put_runtime(lock, args.site / "vendor", args.cache)
        version = write_precache(args.site)
    except (WebError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(f"\n{args.site} is ready, version {version}. Serve it with\n")
    print(f"  {Path(sys.executable).name} -m http.server -d {shown(args.site)} 8000\n")
    print("and open http://localhost:8000. Phones need https for the camera and for speed: docs/web.md.")
    return 0


def export_networks(models: Sequence[Path], folder: Path, tile: int, cache: Path, *, again: bool = False) -> None:
    """Export networks as ONNX files and manifest.json to `folder`/x2, x4, ..., and list the scales in scales.json.

    Exports that are there already stay; folders of other scales are removed.

    Raises:
        WebError: when there is no such file, two have the same scale, or an export fails.
    """
    exported: dict[int, Path] = {}
    for model in models:
        if not model.is_file():
            raise WebError(f"{model}: no such file; give the weights with --model FILE")
        place = next((place for place in sorted(folder.glob("x*")) if is_exported(model, place, tile)), None)
        if place is None or again:
            place = export_network(model, folder, tile, cache)
        else:
            print(f"{shown(place)}: {shown(model)} is exported already")
        scale = int(place.name[1:])
        if scale in exported:
            raise WebError(f"{shown(model)} and {shown(exported[scale])} both enlarge {scale} times; give one of them")
        exported[scale] = model
    for place in folder.iterdir():
        if place.name not in {f"x{scale}" for scale in exported}:
            shutil.rmtree(place) if place.is_dir() else place.unlink()
    (folder / "scales.json").write_text(json.dumps(sorted(exported)) + "\n", encoding="utf-8")


def export_network(model: Path, folder: Path, tile: int, cache: Path) -> Path:
    """Export a network into `folder`/x<scale>, replacing what is there; return that folder.

    Raises:
        WebError: when its export fails.
    """
    fresh = cache / "models"
    shutil.rmtree(fresh, ignore_errors=True)
    run([sys.executable, "-m", "basicsr.export", "-m", str(model), "-o", str(fresh), "--tile", str(tile)])
    if not (fresh / "manifest.json").is_file():
        raise WebError(f"the export of {shown(model)} wrote no manifest.json")
    scale = json.loads((fresh / "manifest.json").read_text(encoding="utf-8"))["scale"]
    place = folder / f"x{scale}"
    shutil.rmtree(place, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.move(fresh, place)
    return place


def is_exported(model: Path, folder: Path, tile: int) -> bool:
    """Return whether `folder` holds the complete export of this weight file and tile, made by the present exporter."""
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
    """Fetch an npm package as locked, verify and unpack it; return its folder. No script of the package is run.

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
    """Write precache.js, the service worker's list of files with their SHA-256 and group; return its version.

    Raises:
        WebError: when the site is not complete.
    """
    groups = {
        path.relative_to(site).as_posix(): "page" for pattern in PAGE_FILES for path in sorted(site.glob(pattern))
    }
    for name in read_lock(site)[RUNTIME]["files"]:
        groups[f"vendor/{name}"] = "webgpu" if any(word in name for word in WEBGPU_WORDS) else "wasm"
    for scale in json.loads((site / "models/scales.json").read_text(encoding="utf-8")):
        manifest = json.loads((site / f"models/x{scale}/manifest.json").read_text(encoding="utf-8"))
        for backend in ("webgpu", "wasm"):  # the last one counts: every device keeps wasm
            for file in manifest["files"]:
                if backend in file["for"]:
                    groups[f"models/x{scale}/{file['file']}"] = backend
    missing = [name for name in groups if not (site / name).is_file()]
    if missing:
        raise WebError(f"{shown(site)} lacks {', '.join(missing)}; run `make web`")
    files = {name: {"sha256": sha256_of(site / name), "group": group} for name, group in sorted(groups.items())}
    version = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:12]
    text = json.dumps({"version": version, "files": files}, indent=1)
    (site / "precache.js").write_text(
        f"// Made by scripts/web.py: the files that the service worker keeps.\nself.PRECACHE = {text};\n",
        encoding="utf-8",
    )
    return version


def set_up_tests(cache: Path) -> Path:
    """Install Chromium, Node.js and npm where they are missing, and fetch the browser's driver; return its folder.

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
    """Time the prepared site in headless Chromium, CPU build; return a Markdown table, a row per number of threads.

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
    """Run a scenario of tests/web/drive.mjs on the prepared site; return its results.

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


def read_lock(site: Path) -> dict[str, Any]:
    """Return the versions and checksums of the packages from npm."""
    return json.loads((site / "npm.lock.json").read_text(encoding="utf-8"))


def run(command: list[str]) -> None:
    """Run a command in the repository, with its output on our standard error.

    Raises:
        WebError: when it fails, with the command and its exit code.
    """
    print(f"$ {shlex.join(command)}", flush=True)
    code = subprocess.run(command, cwd=REPOSITORY, stdout=2).returncode
    if code:
        raise WebError(f"`{shlex.join(command)}` failed with exit code {code}; its own message stands above")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def shown(path: Path) -> str:
    """Return the path as the user would type it here."""
    return os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    sys.exit(main())
