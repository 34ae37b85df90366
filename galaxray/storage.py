"""A run folder on a local disk or in object storage, with files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol, cast

from galaxray.errors import ConfigError

__all__ = ["Folder", "LocalFolder", "S3Folder", "check_writable", "open_folder"]

PROBE = ".write-probe"
"""Object that is put and deleted to see whether a prefix can be written to; readers of tables pass over its name."""


class Folder(Protocol):
    """Files below one root, named by ``/``-separated relative paths.

    ``write`` is atomic: a reader sees the old content, the new content or no file, never a part.
    """

    root: str

    def check(self) -> None:
        """Find out whether files can be written here, leaving nothing behind; ConfigError if not."""

    def clean(self, older_than_s: float = 0.0) -> None:
        """Remove what killed processes left unfinished, if it is that old."""

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

    def create(self, name: str, content: bytes) -> bool:
        """Write a file if there is none of this name; whether it did. Of several at a time, one does."""

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""

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

    def check(self) -> None:
        check_writable(self._root, "output")

    def clean(self, older_than_s: float = 0.0) -> None:
        path = self._root / ".staging"
        before = time.time() - older_than_s
        for staged in path.iterdir() if path.is_dir() else ():
            with suppress(FileNotFoundError):  # another program may clean, or finish it, at the same time
                if staged.stat().st_mtime <= before:
                    staged.unlink()
        with suppress(OSError):  # something younger is there
            path.rmdir()

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

    def create(self, name: str, content: bytes) -> bool:
        target = self._root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with target.open("xb") as file:
                file.write(content)
        except FileExistsError:
            return False
        return True

    def remove(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)

    def adopt(self, local: Path, name: str) -> None:
        target = self._root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = self._staging() / uuid.uuid4().hex
        shutil.move(local, staged)  # a rename, or a copy if it comes from another file system
        staged.replace(target)

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

    def check(self) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        probe = f"{self._prefix}/{PROBE}"
        try:
            self.exists("run.json")
            self._s3.pipe_file(probe, b"")
        except (OSError, BotoCoreError, ClientError, ValueError) as error:
            reason = "no such bucket" if isinstance(error, FileNotFoundError) else str(error).splitlines()[0]
            raise ConfigError(
                f"output {self.root} cannot be written to: {reason}. Credentials and endpoint come from the "
                "environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL, ...)"
            ) from error
        with suppress(PermissionError):  # a run itself never deletes anything
            self._s3.rm_file(probe)

    def clean(self, older_than_s: float = 0.0) -> None:
        """A put that was not finished leaves nothing."""

    def exists(self, name: str) -> bool:
        try:  # isfile() would call a refusal or an outage "no such file"
            return bool(self._s3.info(f"{self._prefix}/{name}")["type"] == "file")
        except FileNotFoundError:
            return False

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

    def create(self, name: str, content: bytes) -> bool:
        try:
            self._s3.pipe_file(f"{self._prefix}/{name}", content, mode="create")
        except FileExistsError:
            return False
        return True

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._s3.rm_file(f"{self._prefix}/{name}")

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
    if Path(uri).expanduser().is_file():
        raise ConfigError(f"output {uri!r} is a file: name a folder")
    return LocalFolder(uri)


def check_writable(folder: Path, setting: str) -> None:
    """Find out whether files can be written to a local folder, or where it would be made, leaving nothing behind.

    Parameters
    ----------
    folder : Path
        Need not exist.
    setting : str
        Its name for the message.

    Raises
    ------
    ConfigError
        If they cannot.
    """
    try:
        place = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        with tempfile.TemporaryFile(dir=place):  # os.access() would say yes to root, for any file system
            pass
    except OSError as error:
        raise ConfigError(
            f"{setting} {folder} cannot be written to: {place}: {error.strerror}; name another folder"
        ) from error
