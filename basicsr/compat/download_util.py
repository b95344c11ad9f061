"""Downloads that old projects ask for. This package itself never calls them."""

import html.parser
import logging
import urllib.request
from collections.abc import Callable, Mapping
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode, urljoin, urlparse

from torch import hub

from basicsr.engine.atomic import atomic_path

logger = logging.getLogger("basicsr")
DRIVE_URL = "https://drive.google.com/uc"
CHUNK_BYTES = 1 << 20


def load_file_from_url(
    url: str, model_dir: str | Path | None = None, progress: bool = True, file_name: str | None = None
) -> str:
    """Return the absolute path of the file of a URL, after downloading it where it is not there yet.

    Args:
        url: of the file.
        model_dir: folder to keep it in; None: `checkpoints` of PyTorch's cache.
        progress: show a progress bar.
        file_name: name to keep it under; None: that of the URL.

    Raises:
        OSError: when it cannot be downloaded.
        ValueError: when neither the URL nor `file_name` gives a name of a file.
    """
    folder = Path(hub.get_dir()) / "checkpoints" if model_dir is None else Path(model_dir)
    name = file_name or unquote(Path(urlparse(url).path).name)
    if not name:
        raise ValueError(f"{url}: ends in no name of a file; pass file_name")
    path = (folder / name).absolute()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        logger.info('Downloading: "%s" to %s', url, path)
        hub.download_url_to_file(url, str(path), progress=progress)
    return str(path)


class _Form(html.parser.HTMLParser):
    """Reads the form by which Google Drive asks whether to download a file that it did not scan."""

    def __init__(self) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the address of the form, and its hidden fields."""
        found = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action = found.get("action", "")
        elif tag == "input" and found.get("type") == "hidden" and "name" in found:
            self.fields[found["name"]] = found.get("value", "")


def download_file_from_google_drive(file_id: str, save_path: str | Path) -> None:
    """Download a file that is shared publicly on Google Drive; large ones, too, for which Drive asks back.

    Args:
        file_id: the part of its address between `/d/` and `/view`.
        save_path: file to write.

    Raises:
        OSError: when Drive gives no file, such as one that is not shared or whose quota is used up.
    """
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    _download_from_drive(opener.open, DRIVE_URL, {"export": "download", "id": file_id}, Path(save_path))


def _download_from_drive(
    open_url: Callable[[str], Any], url: str, query: Mapping[str, str], path: Path, may_ask: bool = True
) -> None:
    """Write what Drive answers to a file; a page that asks back is answered once."""
    with open_url(f"{url}?{urlencode(query)}") as answer:
        if not answer.headers.get("Content-Type", "").startswith("text/html"):
            with atomic_path(path) as part, part.open("wb") as file:
                while chunk := answer.read(CHUNK_BYTES):
                    file.write(chunk)
            return
        form = _Form()
        form.feed(answer.read(CHUNK_BYTES).decode("utf-8", "replace"))
    if not (may_ask and form.action):
        raise OSError(f"{path}: Google Drive gives no file for id {query.get('id')}; is it shared with everybody?")
    _download_from_drive(open_url, urljoin(url, form.action), {**query, **form.fields}, path, may_ask=False)
