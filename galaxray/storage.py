"""A run folder on a local disk or in object storage, with files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import IO, Protocol, cast

from galaxray.errors import ConfigError

__all__ = ["Folder", "LocalFolder", "S3Folder", "open_folder"]


class Folder(Protocol):
    """Files below one root, named by ``/``-separated relative paths.

    ``write`` is atomic: a reader sees the old content, the new content or no file, never a part.
    """

    root: str

    def exists(self, name: str) -> bool:
        """Whether a file of this name is there."""

    def list(self, folder: str) -> list[str]:
        """Names (without the folder) of the files in ``folder``, sorted; empty if there is no such folder."""

    def read(self, name: str) -> bytes:
        """Content of a file; FileNotFoundError if there is none."""

    def open(self, name: str) -> IO[bytes]:
        """Open a file for random access (Parquet reads its footer, then only what it needs)."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all, replacing what was there."""

    def adopt(self, local: Path, name: str) -> None:
        """Move a finished local file into the folder, whole or not at all."""


class LocalFolder:
    """A folder on a disk that all workers share.

    Files are written to ``.staging/`` on the same file system and renamed, so that a crash leaves no partial file
    where readers look. What a killed process left in ``.staging/`` is removed by :meth:`clean`.
    """

    def __init__(self, root: str) -> None:
        self.root = str(Path(root).expanduser().absolute())
        self._root = Path(self.root)

    def exists(self, name: str) -> bool:
        return (self._root / name).is_file()

    def list(self, folder: str) -> list[str]:
        path = self._root / folder
        return sorted(entry.name for entry in os.scandir(path) if entry.is_file()) if path.is_dir() else []

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def open(self, name: str) -> IO[bytes]:
        return (self._root / name).open("rb")

    def write(self, name: str, content: bytes) -> None:
        staged = self._staging() / uuid.uuid4().hex
        with staged.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a rename may reach the disk before the content does
        self.adopt(staged, name)

    def adopt(self, local: Path, name: str) -> None:
        target = self._root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = self._staging() / uuid.uuid4().hex
        shutil.move(local, staged)  # a rename, or a copy if it comes from another file system
        staged.replace(target)

    def clean(self) -> None:
        """Remove what a killed process left unfinished."""
        shutil.rmtree(self._root / ".staging", ignore_errors=True)

    def _staging(self) -> Path:
        path = self._root / ".staging"
        path.mkdir(parents=True, exist_ok=True)
        return path


class S3Folder:
    """A prefix of an S3 bucket: a put of one object is atomic by itself."""

    def __init__(self, root: str) -> None:
        import s3fs

        self.root = root.rstrip("/")
        self._prefix = self.root.removeprefix("s3://")
        # The endpoint and the credentials come from the environment, as with every S3 tool (AWS_ENDPOINT_URL, ...).
        # The listing cache would hide what other workers have written.
        self._s3 = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)

    def exists(self, name: str) -> bool:
        return bool(self._s3.isfile(f"{self._prefix}/{name}"))

    def list(self, folder: str) -> list[str]:
        try:
            found = self._s3.ls(f"{self._prefix}/{folder}", detail=True, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(entry["name"].rsplit("/", 1)[1] for entry in found if entry["type"] == "file")

    def read(self, name: str) -> bytes:
        return cast(bytes, self._s3.cat_file(f"{self._prefix}/{name}"))

    def open(self, name: str) -> IO[bytes]:
        return cast("IO[bytes]", self._s3.open(f"{self._prefix}/{name}", "rb"))

    def write(self, name: str, content: bytes) -> None:
        self._s3.pipe_file(f"{self._prefix}/{name}", content)

    def adopt(self, local: Path, name: str) -> None:
        self._s3.put_file(str(local), f"{self._prefix}/{name}")
        local.unlink()


def open_folder(uri: str) -> Folder:
    """Open a run folder.

    Parameters
    ----------
    uri : str
        A path or ``s3://bucket/prefix``. The folder need not exist.

    Raises
    ------
    ConfigError
        If the address is of another kind, or the path is a file.
    """
    if uri.startswith("s3://"):
        if not uri.removeprefix("s3://").strip("/"):
            raise ConfigError(f"output {uri!r} names no bucket: write s3://BUCKET/PREFIX")
        return S3Folder(uri)
    if "://" in uri:
        raise ConfigError(f"output {uri!r}: a path or s3:// can be written to, not {uri.split('://')[0]}://")
    if Path(uri).is_file():
        raise ConfigError(f"output {uri!r} is a file: name a folder")
    return LocalFolder(uri)
