"""Readers of files in folders and of values in LMDBs, as data sets written for BasicSR 1.4 use them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar


class HardDiskBackend:
    """Reads files from a disk."""

    def get(self, filepath: str | Path) -> bytes:
        """Return the content of a file."""
        return Path(filepath).read_bytes()

    def get_text(self, filepath: str | Path) -> str:
        """Return the content of a text file, UTF-8."""
        return Path(filepath).read_text(encoding="utf-8")


class LmdbBackend:
    """Reads values from one or several LMDBs.

    Args:
        db_paths: folder of an LMDB, or several.
        client_keys: name of each in `get`.
        readonly: as in `lmdb.open`.
        lock: as in `lmdb.open`.
        readahead: as in `lmdb.open`.
        kwargs: further arguments of `lmdb.open`.

    Raises:
        ImportError: without the package `lmdb`.
        ValueError: when there are not as many keys as paths.
    """

    def __init__(
        self,
        db_paths: str | Sequence[str],
        client_keys: str | Sequence[str] = "default",
        readonly: bool = True,
        lock: bool = False,
        readahead: bool = False,
        **kwargs: Any,
    ) -> None:
        try:
            import lmdb
        except ImportError as error:
            raise ImportError("Please install lmdb to enable LmdbBackend: pip install lmdb") from error
        self.db_paths = [db_paths] if isinstance(db_paths, str) else [str(path) for path in db_paths]
        self.client_keys = [client_keys] if isinstance(client_keys, str) else list(client_keys)
        if len(self.db_paths) != len(self.client_keys):
            raise ValueError(f"client_keys and db_paths should have the same length, got {client_keys} and {db_paths}")
        how = {"readonly": readonly, "lock": lock, "readahead": readahead, **kwargs}
        self._clients: Mapping[str, Any] = {
            key: lmdb.open(path, **how) for key, path in zip(self.client_keys, self.db_paths, strict=True)
        }

    def get(self, filepath: str, client_key: str = "default") -> bytes | None:
        """Return the value of the key `filepath`; None when there is none.

        Raises:
            ValueError: for an LMDB that is not one of `client_keys`.
        """
        if client_key not in self._clients:
            raise ValueError(f"client_key {client_key} is not in lmdb clients: {', '.join(self._clients)}")
        with self._clients[client_key].begin(write=False) as transaction:
            return transaction.get(str(filepath).encode("ascii"))


class FileClient:
    """Reads files by a back end chosen by name.

    Args:
        backend: "disk" or "lmdb".
        kwargs: arguments of the back end; see `LmdbBackend`.

    Raises:
        ValueError: for another back end; "memcached" is not supported.
    """

    _backends: ClassVar[Mapping[str, Callable[..., Any]]] = {"disk": HardDiskBackend, "lmdb": LmdbBackend}

    def __init__(self, backend: str = "disk", **kwargs: Any) -> None:
        if backend not in self._backends:
            known = ", ".join(self._backends)
            raise ValueError(f"Backend {backend} is not supported. Currently supported ones are {known}")
        self.backend = backend
        self.client = self._backends[backend](**kwargs)

    def get(self, filepath: str | Path, client_key: str = "default") -> bytes:
        """Return the content of a file, or the value of a key in the LMDB called `client_key`."""
        return self.client.get(filepath, client_key) if self.backend == "lmdb" else self.client.get(filepath)

    def get_text(self, filepath: str | Path) -> str:
        """Return the content of a text file on a disk.

        Raises:
            AttributeError: for an LMDB.
        """
        return self.client.get_text(filepath)
