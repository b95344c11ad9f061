"""Prepare the phone demo in web/: export its networks, fetch the runtime, list the files to keep offline: `make web`.

The results are web/models, web/vendor and web/precache.js, none of them in git. A second run makes only what is
missing or out of date. The runtime is onnxruntime-web from npm, in the version and with the checksums of
web/npm.lock.json.
"""

import argparse
import base64
import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from basicsr.inference.tasks import PHOTO, weight_file
from basicsr.text import tolerate_encoding
from web_tools import REPOSITORY, WebError, run, sha256_of, shown

PROGRAM = "web"
SITE = REPOSITORY / "web"
CACHE = REPOSITORY / "build/web"
PICTURES = REPOSITORY / "docs/web"
SHIPPED = (
    *(weight_file(PHOTO, scale) for scale in (2, 4)),
    *(REPOSITORY / f"pretrained_models/CATANet-XS_x{scale}.pth" for scale in (2, 4)),
)
LABELS = {"CATANet-XS_photo": "Photographs", "CATANet-XS": "Clean pictures"}  # what the page calls the networks
EXPORTER = ("export.py", "runtimes/*.py", "archs/**/*.py")  # in basicsr/
RUNTIME = "onnxruntime-web"
BROWSER_DRIVER = "playwright-core"
DEFAULT_TILE = 128  # px; with the overlap of 16, the network computes 1.3 times the picture
PAGE_FILES = (
    "index.html",
    "style.css",
    "app.js",
    "manifest.webmanifest",
    "sample.png",
    "js/*.js",
    "icons/*.png",
    "models/networks.json",
    "models/*/manifest.json",
)
GPU_GROUP = "webgpu-{dtype}"  # of the service worker, for networks; a device keeps those of one type of numbers
WEBGPU_WORDS = ("webgpu", "asyncify")  # in the names of the runtime's files; the others are for the CPU
TEST_PROGRAMS = {"chromium": "chromium", "node": "nodejs", "npm": "npm"}  # program -> Debian's package


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 0: the site is ready to be served."""
    tolerate_encoding()
    args = parse_arguments(argv)
    try:
        if args.test_setup:
            set_up_tests(args.cache)
            return 0
        if args.icons:
            from web_icons import draw_icons  # needs Pillow

            draw_icons(args.site / "icons")
            return 0
        if args.measure or args.measure_photo or args.pictures:
            drive_browser(args)
            return 0
        lock = read_lock(args.site)
        export_networks(args.model, args.site / "models", args.tile, args.cache, again=args.again)
        put_runtime(lock, args.site / "vendor", args.cache)
        version = write_precache(args.site)
    except (WebError, OSError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    print(f"\n{args.site} is ready, version {version}. Serve it with\n")
    print(f"  {Path(sys.executable).name} -m http.server -d {shown(args.site)} 8000\n")
    print("and open http://localhost:8000. Phones need https for the camera and for speed: docs/web.md.")
    return 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(prog="web", description=__doc__)
    parser.add_argument(
        "-m",
        "--model",
        type=Path,
        nargs="+",
        default=SHIPPED,
        metavar="FILE",
        help="weights, named NETWORK_xSCALE (default: CATANet-XS for photographs and for clean pictures, x2 and x4)",
    )
    parser.add_argument(
        "--tile", type=int, default=DEFAULT_TILE, metavar="PX", help="side of WebGPU's tiles (default: 128)"
    )
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
    parser.add_argument(
        "--measure-photo",
        nargs=2,
        metavar=("FILE", "SCALE"),
        help="enlarge one photograph in Chromium, tell times and memory, and stop",
    )
    parser.add_argument("--pictures", action="store_true", help="take the screenshots of docs/web.md again, and stop")
    parser.add_argument("--test-setup", action="store_true", help="install what the browser tests need, and stop")
    args = parser.parse_args(argv)
    if args.tile < 1:
        parser.error("--tile must be at least 1")
    if args.measure_photo and not args.measure_photo[1].isdecimal():
        parser.error("--measure-photo needs a file and an enlargement, 2 or 4")
    return args


def drive_browser(args: argparse.Namespace) -> None:
    """Measure the prepared site in Chromium, or take its pictures, as the arguments say.

    Raises:
        WebError: when the site is not prepared, or the browser stops.
    """
    import web_browser

    if not (args.site / "precache.js").is_file():
        raise WebError(f"{shown(args.site)} is not prepared; run `make web`")
    write_precache(args.site)
    driver, folder = set_up_tests(args.cache), args.cache / "drive"
    if args.measure:
        print(web_browser.measure(args.site, driver, folder))
    elif args.measure_photo:
        photo, scale = args.measure_photo
        print(web_browser.measure_photo(args.site, driver, folder, Path(photo), int(scale)))
    else:
        web_browser.take_pictures(args.site, driver, folder, PICTURES)


def export_networks(models: Sequence[Path], folder: Path, tile: int, cache: Path, *, again: bool = False) -> None:
    """Export networks as ONNX files and manifest.json to `folder`/<network>_x<scale>, and list them in networks.json.

    Exports that are there already stay; other folders are removed.

    Raises:
        WebError: when there is no such file, two are the same network and scale, or an export fails.
    """
    exported: dict[str, Path] = {}
    scales: dict[str, list[int]] = {}
    for model in models:
        if not model.is_file():
            raise WebError(f"{model}: no such file; give the weights with --model FILE")
        place = next((place for place in sorted(folder.glob("*_x*")) if is_exported(model, place, tile)), None)
        if place is None or again:
            place = export_network(model, folder, tile, cache)
        else:
            print(f"{shown(place)}: {shown(model)} is exported already")
        if place.name in exported:
            raise WebError(f"{shown(model)} and {shown(exported[place.name])} are both {place.name}; give one of them")
        exported[place.name] = model
        network, scale = place.name.rsplit("_x", 1)
        scales.setdefault(network, []).append(int(scale))
    for place in folder.iterdir():
        if place.name not in exported:
            shutil.rmtree(place) if place.is_dir() else place.unlink()
    networks = [
        {"id": network, "label": LABELS.get(network, network), "scales": sorted(present)}
        for network, present in scales.items()
    ]
    (folder / "networks.json").write_text(json.dumps(networks, indent=1) + "\n", encoding="utf-8")


def export_network(model: Path, folder: Path, tile: int, cache: Path) -> Path:
    """Export a network into `folder`/<network>_x<scale>, replacing what is there; return that folder.

    There are three files: float32 for any size (WASM), float32 and float16 for one size of tile (WebGPU).

    Raises:
        WebError: when its export fails.
    """
    fresh, half = cache / "models", cache / "models_float16"
    manifests = []
    for target, more in ((fresh, ()), (half, ("--no-dynamic", "--dtype", "float16"))):
        shutil.rmtree(target, ignore_errors=True)
        command = [sys.executable, "-m", "basicsr.export", "-m", str(model), "-o", str(target), "--tile", str(tile)]
        run([*command, *comparison_photo(), *more])
        if not (target / "manifest.json").is_file():
            raise WebError(f"the export of {shown(model)} wrote no manifest.json")
        manifests.append(json.loads((target / "manifest.json").read_text(encoding="utf-8")))
    manifest, smaller = manifests
    for file in smaller["files"]:
        shutil.move(half / file["file"], fresh / file["file"])
    manifest["files"] += smaller["files"]
    manifest["parity"]["files"].update(smaller["parity"]["files"])
    (fresh / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    scale = manifest["scale"]
    place = folder / f"{model.stem.replace(f'_x{scale}', '', 1)}_x{scale}"
    shutil.rmtree(place, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.move(fresh, place)
    shutil.rmtree(half)
    return place


def comparison_photo() -> list[str]:
    """Return the exporter's option for a photograph that is large enough for our tiles, where scikit-image has it."""
    package = importlib.util.find_spec("skimage")
    photo = Path(package.origin).parent / "data/astronaut.png" if package and package.origin else None
    return ["--photo", str(photo)] if photo and photo.exists() else []


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
    for path in sorted(site.glob("models/*/manifest.json")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for file in manifest["files"]:  # every device keeps wasm
            group = "wasm" if "wasm" in file["for"] else GPU_GROUP.format(dtype=file["dtype"])
            groups[f"models/{path.parent.name}/{file['file']}"] = group
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


def read_lock(site: Path) -> dict[str, Any]:
    """Return the versions and checksums of the packages from npm."""
    return json.loads((site / "npm.lock.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
