"""A folder that keeps good answers: images by their content, and which image answered which request.

::

    objects/ab/abcd...   an image, named by the SHA-256 of its bytes
    requests/12/1234...  the name of the image, in a file named by the SHA-256 of the address

Any number of processes may share a folder: files appear whole or not at all, and what is read is checked.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import os
import re
import stat
import tempfile
from pathlib import Path

from galaxray.cutouts.answers import Answer, Check, FetchStats, Reader
from galaxray.errors import ConfigError, RowError

__all__ = ["CachedReader", "cache_folder"]

SHA256 = re.compile("[0-9a-f]{64}")
MAX_OBJECT_BYTES = 2**30

logger = logging.getLogger(__name__)


class CachedReader:
    """Look into the folder before asking a reader, and keep what it brings.

    A folder that cannot be read or written slows a run down; it never fails one.

    Parameters
    ----------
    reader : Reader
    folder : str
        A local path; made where it does not exist.
    check : callable
        Structural check of an image, for what comes out of the folder too.
    stats : FetchStats
        Where to count.

    Raises
    ------
    ConfigError
        If the folder is not a local path.
    """

    def __init__(self, reader: Reader, folder: str, *, check: Check, stats: FetchStats) -> None:
        self._reader = reader
        self._folder = cache_folder(folder)
        self._check = check
        self._stats = stats
        self._can_write = True

    async def close(self) -> None:
        """Close the reader."""
        await self._reader.close()

    async def read(self, address: str) -> Answer:
        """Bring one image."""
        if "://" not in address:  # a local file
            return await self._reader.read(address)
        kept = await asyncio.to_thread(self._load, address)
        if kept is not None:
            self._stats.cached += 1
            return kept
        answer = await self._reader.read(address)
        if answer.body is not None:
            await asyncio.to_thread(self._keep, address, answer.body)
        return answer

    def _load(self, address: str) -> Answer | None:
        try:
            name = _read(self._request(address)).decode("ascii")
            if not SHA256.fullmatch(name):  # who may write to the folder must not point us at /dev/zero
                return None
            body = _read(self._object(name))
        except (OSError, ValueError):
            return None
        if hashlib.sha256(body).hexdigest() != name:
            return None
        try:
            dimensions = self._check(body)
        except RowError:  # checks may have become stricter
            return None
        return Answer(body, dimensions and dimensions.width)

    def _keep(self, address: str, body: bytes) -> None:
        if not self._can_write:
            return
        name = hashlib.sha256(body).hexdigest()
        try:
            _write(self._object(name), body)
            _write(self._request(address), name.encode())
        except OSError as error:
            self._can_write = False
            logger.warning("the cache folder %s cannot be written, going on without it: %s", self._folder, error)

    def _object(self, name: str) -> Path:
        return self._folder / "objects" / name[:2] / name

    def _request(self, address: str) -> Path:
        name = hashlib.sha256(address.encode()).hexdigest()
        return self._folder / "requests" / name[:2] / name


def cache_folder(folder: str) -> Path:
    """Path of the cache; ConfigError if it is not a local one."""
    if not folder or "://" in folder:
        raise ConfigError(f"cutouts.cache {folder!r}: the cache is a local folder")
    return Path(folder).expanduser()


def _read(path: Path) -> bytes:
    """Read a regular file of a bounded size: a pipe would be waited for, and a device has no end."""
    with io.FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode) or about.st_size > MAX_OBJECT_BYTES:
            raise OSError(f"{path} is no file of the cache")
        return file.read()


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all. Not synced: what a crash damages fails its check and is fetched again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, staged = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(staged).replace(path)
    except BaseException:
        Path(staged).unlink()
        raise
