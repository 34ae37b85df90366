"""A run folder on a local disk or in object storage, with files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, NamedTuple, Protocol, cast

from galaxray.errors import ConfigError
from galaxray.s3 import s3_filesystem

__all__ = ["Entry", "Folder", "LocalFolder", "S3Folder", "check_writable", "open_folder"]

PROBE = ".write-probe"
"""Object that is put and deleted to see whether a prefix can be written to; readers of tables pass over its name."""


class Entry(NamedTuple):
    """A file in a listing."""

    name: str
    size: int
    """Bytes."""
    modified: float
    """When it was written (Unix time by the clock of the disk or store, to be compared with its like only)."""


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

    def entries(self, folder: str) -> Iterator[Entry]:
        """Files in ``folder`` in any order, a million of them in little memory; none if there is no such folder."""

    def read(self, name: str) -> bytes:
        """Content of a file; FileNotFoundError if there is none."""

    def tail(self, name: str, num_bytes: int) -> bytes:
        """Last bytes of a file, all of a shorter one, in one request; FileNotFoundError if there is none."""

    def open(self, name: str) -> IO[bytes]:
        """Open a file for random access (Parquet reads its footer, then only what it needs)."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all, replacing what was there."""

    def create(self, name: str, content: bytes) -> bool:
        """Write a file if there is none of this name; whether it did. Of several at a time, one does."""

    def replace(self, name: str, old: bytes, new: bytes) -> bool:
        """Write a file if its content is still ``old``; whether it did. Of several at a time, one does."""

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
        if not path.is_dir():
            return
        before = _time_by(path) - older_than_s
        for staged in path.iterdir():
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

    def entries(self, folder: str) -> Iterator[Entry]:
        path = self._root / folder
        with os.scandir(path) if path.is_dir() else nullcontext(()) as found:
            for entry in found:
                with suppress(FileNotFoundError):  # it went after it was listed
                    if entry.is_file():
                        about = entry.stat()
                        yield Entry(entry.name, about.st_size, about.st_mtime)

    def tail(self, name: str, num_bytes: int) -> bytes:
        with (self._root / name).open("rb", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - num_bytes))
            return file.read()

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def open(self, name: str) -> IO[bytes]:
        return (self._root / name).open("rb")

    def write(self, name: str, content: bytes) -> None:
        staged = self._staging() / uuid.uuid4().hex
        with _removed_on_failure(staged), staged.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a rename may reach the disk before the content does
        self.adopt(staged, name)

    def create(self, name: str, content: bytes) -> bool:
        target = self._root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = target.open("xb")
        except FileExistsError:
            return False
        with _removed_on_failure(target), file:
            file.write(content)
        return True

    def replace(self, name: str, old: bytes, new: bytes) -> bool:
        target, aside = self._root / name, self._staging() / uuid.uuid4().hex
        try:
            target.rename(aside)  # of several at a time, one gets it
        except FileNotFoundError:
            return False
        if aside.read_bytes() != old:
            aside.rename(target)
            return False
        aside.unlink()
        return self.create(name, new)

    def remove(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)

    def adopt(self, local: Path, name: str) -> None:
        target = self._root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = self._staging() / uuid.uuid4().hex
        with _removed_on_failure(staged):
            shutil.move(local, staged)  # a rename, or a copy if it comes from another file system
            staged.replace(target)

    def _staging(self) -> Path:
        path = self._root / ".staging"
        path.mkdir(parents=True, exist_ok=True)
        return path


class S3Folder:
    """A prefix of an S3 bucket: a put of one object is atomic by itself."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self._prefix = self.root.removeprefix("s3://")
        self._s3 = s3_filesystem()

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
        return sorted(entry.name for entry in self.entries(folder))

    def entries(self, folder: str) -> Iterator[Entry]:
        # Page by page: s3fs would keep a dictionary of every object of a large folder before it gave the first.
        bucket, _, prefix = (f"{self._prefix}/{folder}".rstrip("/") + "/").partition("/")
        where = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/"}
        while True:
            try:
                page = self._s3.call_s3("list_objects_v2", **where)
            except FileNotFoundError:  # no such bucket
                return
            for found in page.get("Contents", ()):
                name, modified = found["Key"].removeprefix(prefix), cast(datetime, found["LastModified"])
                if name:  # a console's "folder" is an object whose name ends with a slash
                    yield Entry(name, found["Size"], modified.timestamp())
            if not page.get("IsTruncated"):
                return
            where["ContinuationToken"] = page["NextContinuationToken"]

    def tail(self, name: str, num_bytes: int) -> bytes:
        return cast(bytes, self._s3.cat_file(f"{self._prefix}/{name}", start=-num_bytes))

    def read(self, name: str) -> bytes:
        return cast(bytes, self._s3.cat_file(f"{self._prefix}/{name}"))

    def open(self, name: str) -> IO[bytes]:
        return cast("IO[bytes]", self._s3.open(f"{self._prefix}/{name}", "rb"))

    def write(self, name: str, content: bytes) -> None:
        self._s3.pipe_file(f"{self._prefix}/{name}", content)

    def create(self, name: str, content: bytes) -> bool:
        try:
            self._s3.pipe_file(f"{self._prefix}/{name}", content, mode="create")
        except OSError as error:
            if isinstance(error, FileExistsError) or _lost_a_race(error):
                return False
            raise
        return True

    def replace(self, name: str, old: bytes, new: bytes) -> bool:
        path = f"{self._prefix}/{name}"
        try:
            tag = self._s3.info(path)["ETag"]
            if self.read(name) != old:
                return False
            self._s3.pipe_file(path, new, IfMatch=tag)
        except FileNotFoundError:
            return False
        except OSError as error:
            if _lost_a_race(error):
                return False
            raise
        return True

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._s3.rm_file(f"{self._prefix}/{name}")

    def adopt(self, local: Path, name: str) -> None:
        self._s3.put_file(str(local), f"{self._prefix}/{name}")
        local.unlink()


def _lost_a_race(error: OSError) -> bool:
    """Whether S3 did not write because somebody else has, or is just about to."""
    code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
    return code in ("PreconditionFailed", "ConditionalRequestConflict")


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


def _time_by(folder: Path) -> float:
    """The time (Unix) by the clock that dates a folder's files, a file server's perhaps: ours may be off, or jump."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            return os.fstat(probe.fileno()).st_mtime
    except OSError:  # no room even for that
        return time.time()


@contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    """Take away what was written of a file that did not become whole: on a full disk it takes up the rest."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise
