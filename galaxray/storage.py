"""A run folder on a local disk or in object storage, with files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO

from galaxray.errors import ConfigError
from galaxray.folder import Entry, Folder
from galaxray.s3_folder import S3Folder

__all__ = ["Entry", "Folder", "LocalFolder", "S3Folder", "check_writable", "open_folder"]


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
