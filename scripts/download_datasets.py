"""Fetch the training sets, test sets and weights that the published READMEs name, into the folders of the YAML files.

    python scripts/download_datasets.py --list
    python scripts/download_datasets.py DIV2K_train_HR benchmark CATANet_x2
    python scripts/download_datasets.py --check

A stopped download goes on where it was when it is started again. Checksums are compared where they are known. Archives
stay in ROOT/.downloads until they are unpacked; one that was fetched in another way and put there is used too. Some
things only a browser gets: --list shows their address, --check whether they are in their place.
"""

import argparse
import difflib
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from basicsr.images.files import image_size, list_images
from basicsr.text import tolerate_encoding
from download import DownloadError, checksum_of, fetch, part_of, readable, unpack

ETH = "https://data.vision.ee.ethz.ch/cvl/DIV2K"
SNU = "https://cv.snu.ac.kr/research/EDSR"
DRIVE = "https://drive.google.com"
CATANET = "https://github.com/EquationWalker/CATANet/releases/download/v0.0"
RESEARCH = "academic research only"
UNSTATED = "none stated; research use"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing to fetch."""

    name: str  # on the command line
    what: str
    licence: str  # a note; the terms are with the owners
    address: str  # of the file, or (`by_hand`) of the page that offers it
    holds: Mapping[str, int | None]  # folder below the root -> its number of images; or file or folder of weights: None
    size: int | None = None  # of the file, in bytes; None: not known
    about: str = "not known"  # what READMEs say of a size that is not known exactly
    checksum: str | None = None  # "sha256:..." or "md5:..." of the file; None: not known
    unpack_to: str | None = None  # folder below the root for what is in the archive; None: it is no archive
    strip: str = ""  # folder at the top of the archive that is left out
    is_weights: bool = False  # goes below --weights instead of --root
    by_hand: bool = False  # only a browser gets it


def div2k(name: str, what: str, folder: str, size: int, sha256: str) -> Entry:
    """One of the archives of DIV2K's 800 training images."""
    return Entry(
        name=name, what=f"DIV2K training images, {what}", licence=RESEARCH, address=f"{ETH}/{name}.zip",
        holds={f"DIV2K/{folder}": 800}, size=size, checksum=f"sha256:{sha256}", unpack_to="DIV2K",
    )  # fmt: skip


# The sizes and sha256 of DIV2K are those of TensorFlow Datasets (datasets/div2k/checksums.tsv), the md5 of the other
# archives those of torchSR (torchsr/datasets).
ENTRIES = (
    div2k(
        "DIV2K_train_HR", "high resolution", "DIV2K_train_HR",
        3_530_603_713, "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
    ),
    div2k(
        "DIV2K_train_LR_bicubic_X2", "bicubic x2", "DIV2K_train_LR_bicubic/X2",
        925_390_592, "a53a424317575838dadce4bcd97cf7b744d6855f43740ed5f0245af3cf4bd850",
    ),
    div2k(
        "DIV2K_train_LR_bicubic_X3", "bicubic x3", "DIV2K_train_LR_bicubic/X3",
        427_847_282, "ad5c8e5507e2765823d3c2c5bd0934842efcd487c5370604c224090898b3163a",
    ),
    div2k(
        "DIV2K_train_LR_bicubic_X4", "bicubic x4", "DIV2K_train_LR_bicubic/X4",
        246_914_039, "f006b837f4eb52b82909aa01478e6d6d199eefce932179491d0c9dbb706dde3a",
    ),
    Entry(
        name="Flickr2K", what="Flickr2K training images", licence=UNSTATED, address=f"{SNU}/Flickr2K.tar",
        holds={"Flickr2K/Flickr2K_HR": 2650}, checksum="md5:5d3f39443d5e9489bff8963f8f26cb03", unpack_to="",
    ),
    Entry(
        name="benchmark", what="Set5, Set14, B100, Urban100", licence=UNSTATED, address=f"{SNU}/benchmark.tar",
        holds={"Set5/HR": 5, "Set14/HR": 14, "B100/HR": 100, "Urban100/HR": 100}, about="250 MB",
        checksum="md5:4ace41d33c2384b97e6b320cd0afd6ba", unpack_to="", strip="benchmark",
    ),
    Entry(
        name="testsets", what="Set5, Set14, B100, Urban100, Manga109", licence=f"{UNSTATED}; Manga109: {RESEARCH}",
        address=f"{DRIVE}/file/d/1_FvS_bnSZvJWx9q4fNZTR8aS15Rb0Kc6/view", by_hand=True,
        holds={"Set5/HR": 5, "Set14/HR": 14, "B100/HR": 100, "Urban100/HR": 100, "Manga109/HR": 109},
    ),
    Entry(
        name="WED", what="Waterloo Exploration, for ATD-U (RAR)", licence="see its page", holds={"WED": 4744},
        address="https://ivc.uwaterloo.ca/database/WaterlooExploration/exploration_database_and_code.rar", by_hand=True,
    ),
    Entry(
        name="BSD500", what="BSDS500, for ATD-U", licence="non-commercial research", holds={"BSD500": 500},
        address=f"{DRIVE}/file/d/12oYmda-cC54XG5019EI17g0GG9qxybe9/view", by_hand=True,
    ),
    Entry(
        name="ColorDN", what="CBSD68, Kodak24, McMaster (colour noise)", licence=UNSTATED,
        address=f"{DRIVE}/file/d/11374-202z7ULaA50FKUMXAlVeOykTvGo/view", by_hand=True,
        holds={"ColorDN/CBSD68HQ": 68, "ColorDN/Kodak24HQ": 24, "ColorDN/McMasterHQ": 18},
    ),
    Entry(
        name="GrayDN", what="Set12, BSD68 (gray noise)", licence=UNSTATED,
        address=f"{DRIVE}/file/d/1zFESymnrJn39sSkcTu8XbMByDEy8_yse/view", by_hand=True,
        holds={"GrayDN/Set12": 12, "GrayDN/BSD68": 68},
    ),
    Entry(
        name="CAR", what="Classic5, LIVE1 (JPEG artifacts)", licence=UNSTATED,
        address=f"{DRIVE}/file/d/16rZLCcLg9yXD9jyromwy4UL0A5AhU_Wm/view", by_hand=True,
        holds={"CAR/classic5/Classic5_HQ": 5, "CAR/LIVE1/LIVE1_HQ": 29},
    ),
    *(
        Entry(
            name=f"CATANet_x{scale}", what=f"weights of CATANet-L x{scale}", licence="Apache-2.0 (repository)",
            address=f"{CATANET}/x{scale}.pth", holds={f"x{scale}.pth": None}, about="2.2 MB", is_weights=True,
        )
        for scale in (2, 3, 4)
    ),
    Entry(
        name="ATD_v1", what="weights of ATD, ATD-light (CVPR 2024)", licence="see the repository",
        address=f"{DRIVE}/drive/folders/1D3BvTS1xBcaU1mp50k3pBzUWb7qjRvmB", holds={"ATD_v1": None},
        is_weights=True, by_hand=True,
    ),
    Entry(
        name="ATD_v2", what="weights of ATD, ATD-light, ATD-U (TPAMI)", licence="Apache-2.0 (repository)",
        address=f"{DRIVE}/drive/folders/1nz0I798GM8HkPYVZCLe8i9LAK31mpYQs", holds={"ATD_v2": None},
        is_weights=True, by_hand=True,
    ),
)  # fmt: skip


class Places(NamedTuple):
    """Where things go."""

    root: Path
    weights: Path

    def of(self, entry: Entry) -> Path:
        """What the paths in `entry` are relative to."""
        return self.weights if entry.is_weights else self.root

    def download(self, entry: Entry) -> Path:
        """The file that was fetched, before it is unpacked or moved to its place."""
        return self.root / ".downloads" / PurePosixPath(entry.address).name

    def receipt(self, entry: Entry) -> Path:
        """A note of the checksum that this file had."""
        return self.root / ".downloads" / f"{entry.name}.checksum"


class State(NamedTuple):
    """How far an entry is."""

    is_complete: bool
    text: str


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 0: all is there, 1: --check found something missing."""
    tolerate_encoding()
    parser = argparse.ArgumentParser(
        prog="download_datasets", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to fetch or check; --list shows all names")
    parser.add_argument("--root", type=Path, default=Path("datasets"), help="for data sets (default: datasets)")
    parser.add_argument(
        "--weights", type=Path, default=Path("pretrained_models"), help="for weights (default: pretrained_models)"
    )
    parser.add_argument("--list", action="store_true", help="show what there is, with size, licence and address")
    parser.add_argument("--check", action="store_true", help="show what is in its place, complete and undamaged")
    parser.add_argument("--keep", action="store_true", help="keep archives after unpacking")
    args = parser.parse_args(argv)
    if not (args.names or args.list or args.check):
        parser.error("name what to fetch, or ask for --list or --check")
    places = Places(args.root, args.weights)
    try:
        entries = chosen(args.names)
        if args.list:
            print(table(entries))
            return 0
        if args.check:
            states = [state_of(entry, places) for entry in entries]
            width = max(len(entry.name) for entry in entries)
            for entry, state in zip(entries, states, strict=True):
                print(f"{entry.name:{width}}  {state.text}")
            return int(not all(state.is_complete for state in states))
        for entry in entries:
            print(f"{entry.name}: {obtain(entry, places, args.keep)}", flush=True)
    except (DownloadError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    return 0


def chosen(names: Sequence[str]) -> list[Entry]:
    """The entries called `names`; none: all.

    Raises:
        DownloadError: when there is no such entry.
    """
    known = {entry.name: entry for entry in ENTRIES}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise DownloadError(f"{name}: no such data set or weights; {hint}")
    return [known[name] for name in dict.fromkeys(names)] or list(ENTRIES)


def table(entries: Sequence[Entry]) -> str:
    """All that is known of `entries`, in columns."""
    rows = [("name", "what", "size", "checksum", "licence", "address")]
    for entry in entries:
        size = readable(entry.size) if entry.size else entry.about
        checksum = entry.checksum.partition(":")[0] if entry.checksum else "not known"
        address = f"{entry.address}{' (by hand)' if entry.by_hand else ''}"
        rows.append((entry.name, entry.what, size, checksum, entry.licence, address))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def state_of(entry: Entry, places: Places) -> State:
    """How far `entry` is: what is there, whether it is complete, and whether its checksum was compared."""
    base, download, receipt = places.of(entry), places.download(entry), places.receipt(entry)
    for place, count in entry.holds.items():
        fault = weights_fault(base / place, receipt) if count is None else images_fault(base / place, count)
        if fault and not entry.by_hand and part_of(download).is_file():
            of = f" of {readable(entry.size)}" if entry.size else ""
            return State(False, f"partly downloaded, {readable(part_of(download).stat().st_size)}{of}")
        if fault:
            return State(False, fault)
    if not receipt.is_file():
        return State(True, "complete; it came another way, so no checksum was compared")
    return State(True, "complete, checksum as published" if entry.checksum else "complete; no checksum is published")


def images_fault(folder: Path, count: int) -> str | None:
    """What is wrong with a folder that should hold `count` whole images; None: nothing."""
    names = list_images(folder) if folder.is_dir() else []
    if len(names) < count:
        return f"incomplete, {folder} holds {len(names)} of {count} images" if names else f"missing, no {folder}"

    def fault(name: str) -> str | None:
        try:
            image_size(folder / name)
        except ValueError as error:
            return f"damaged, {error}"
        return None

    with ThreadPoolExecutor() as pool:
        return next(filter(None, pool.map(fault, names)), None)


def weights_fault(path: Path, receipt: Path) -> str | None:
    """What is wrong with a file of weights, or a folder of them; None: nothing."""
    if not path.exists():
        return f"missing, no {path}"
    if path.is_file() and receipt.is_file():
        expected = receipt.read_text(encoding="utf-8").strip()
        if checksum_of(path, expected.partition(":")[0]) != expected:
            return f"damaged, {path} is not the file that was downloaded"
    return None


def obtain(entry: Entry, places: Places, keep: bool = False) -> str:
    """Bring `entry` into its place, and say how that went.

    Raises:
        DownloadError: when that is not possible, with what to do.
    """
    before = state_of(entry, places)
    if before.is_complete:
        return before.text
    base, download = places.of(entry), places.download(entry)
    if entry.by_hand:
        wanted = [f"{base / place}" + (f" ({count} images)" if count else "") for place, count in entry.holds.items()]
        raise DownloadError(f"{entry.name}: get it with a browser from {entry.address} and fill {', '.join(wanted)}")
    if not download.is_file():
        refuse_full_disk(entry, download)
        fetch(entry.address, download, resume=entry.checksum is not None)
    checksum = verify(entry, download)
    base.mkdir(parents=True, exist_ok=True)
    if entry.unpack_to is None:
        (target,) = (base / place for place in entry.holds)
        shutil.copyfile(download, part_of(target))
        os.replace(part_of(target), target)
    else:
        unpack(download, base / entry.unpack_to, entry.strip)
    places.receipt(entry).write_text(f"{checksum}\n", encoding="utf-8")
    after = state_of(entry, places)
    if not after.is_complete:
        raise DownloadError(f"{entry.name}: {after.text}, though {download} was unpacked; look into this archive")
    if not keep:
        download.unlink()
    return after.text


def refuse_full_disk(entry: Entry, download: Path) -> None:
    """Refuse to begin what cannot end.

    Raises:
        DownloadError: when there is no room for an archive of known size and what is in it.
    """
    download.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(download)
    needed = 2 * (entry.size or 0) - (part.stat().st_size if part.is_file() else 0)
    free = shutil.disk_usage(download.parent).free
    if needed > free:
        raise DownloadError(
            f"{entry.name}: needs {readable(needed)}, {download.parent} has {readable(free)}; make room"
        )


def verify(entry: Entry, path: Path) -> str:
    """The checksum of a downloaded file, of the published kind; a wrong file is removed.

    Raises:
        DownloadError: when its size or checksum is not the published one.
    """
    size = path.stat().st_size
    checksum = checksum_of(path, entry.checksum.partition(":")[0] if entry.checksum else "sha256")
    if entry.size not in (None, size):
        problem = f"expected {entry.size} bytes, got {size}"
    elif entry.checksum not in (None, checksum):
        problem = f"expected {entry.checksum}, got {checksum}"
    else:
        return checksum
    path.unlink()
    raise DownloadError(f"{entry.name}: the file is damaged or has changed ({problem}); it was removed, run again")


if __name__ == "__main__":
    raise SystemExit(main())
