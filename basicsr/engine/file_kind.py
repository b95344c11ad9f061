"""What a file is by its first bytes, for messages about files that are given as weights and are none."""

import codecs
import re
import zipfile
from pathlib import Path

HEAD_BYTES = 1024
SAFETENSORS_FILE = "a safetensors file; give it the suffix .safetensors"
PYTORCH_PREFIXES = (b"PK\x03\x04", b"\x80")  # of a zip archive, and of a pickle in protocol 2 or newer
SIGNATURES = (
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG", "a PNG image"),
    (b"GIF8", "a GIF image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"BM", "a BMP image"),
    (b"%PDF", "a PDF document"),
    (b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"\x89HDF", "an HDF5 file, which other frameworks write"),
    (b"\x1f\x8b", "an archive made by gzip; unpack it"),
    (b"\xfd7zXZ", "an archive made by xz; unpack it"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
    (b"\x28\xb5\x2f\xfd", "an archive made by zstd; unpack it"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
)
TEXTS = (
    (rb"version https://git-lfs", "a pointer of Git LFS, not the file itself; run `git lfs pull`"),
    (rb"(<!--.*?-->\s*)?<(!doctype html|html|head|body)", "an HTML page, not a download; fetch the file itself"),
    (rb"<\?xml|<", "an XML page, not a download; fetch the file itself"),
    (rb"[{\[]", "a JSON file"),
)


def describe_file(path: str | Path) -> str | None:
    """Return what a file is, as the end of the sentence "it is ..."; None if it may be a file of PyTorch.

    Raises:
        OSError: when it cannot be read.
    """
    with Path(path).open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        return "empty"
    if head.startswith(PYTORCH_PREFIXES):
        return _describe_zip(path) if head.startswith(b"PK") else None
    if not head.strip(b"\0"):
        return "filled with zeros; copy it again"
    if head[8:12] == b"WEBP":
        return "a WebP image"
    if head[4:8] == b"ftyp":
        return "a HEIC image or a video"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it"
    if head[8:9] == b"{" and b'"' in head[9:12]:
        return SAFETENSORS_FILE
    return next((kind for start, kind in SIGNATURES if head.startswith(start)), None) or _describe_text(head)


def _describe_text(head: bytes) -> str | None:
    cut = len(head) == HEAD_BYTES  # perhaps within a character
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head, final=not cut)
    except UnicodeDecodeError:
        return None
    if not all(char.isprintable() or char.isspace() for char in text):
        return None
    start = text.lstrip().lower().encode()
    return next((kind for pattern, kind in TEXTS if re.match(pattern, start, re.DOTALL)), "a text file")


def _describe_zip(path: str | Path) -> str | None:
    if not zipfile.is_zipfile(path):
        return "cut off; copy or download it again"
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.rpartition("/")[2] for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return None
    if "constants.pkl" in names:
        return "a TorchScript program; save the state_dict() of its network"
    return None if "data.pkl" in names else "a zip archive without weights; if they are packed in it, unpack it"
