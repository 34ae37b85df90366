"""Find and open the files of a catalogue: on disk, in S3, or behind http(s)."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
import pyarrow as pa

from galaxray.catalog.download import Download, download
from galaxray.display import without_secrets
from galaxray.errors import CatalogError
from galaxray.s3 import s3_reader

__all__ = ["CatalogFile", "CatalogFiles", "describe_failure", "find_files"]

PARQUET_SUFFIXES = (".parquet", ".pq", ".parq")
READ_AHEAD_BYTES = 8 * 2**20
HASHED_BYTES = 256 * 2**20
"""Local catalogues up to this size are fingerprinted by content: a copy, or a job's working folder that is unpacked
anew for each submission, is the same catalogue although its time of modification differs."""

_DECOMPRESSORS: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}


@dataclass(frozen=True)
class CatalogFile:
    """One file, to be opened as often as needed.

    Attributes
    ----------
    name : str
        What the user knows it by; used in messages.
    size_bytes : int
        Size as stored (compressed, if it is).
    version : str or None
        Entity tag or digest, which changes with the content; None for a local file.
    modified : str
        Time of modification.
    """

    name: str
    size_bytes: int
    version: str | None
    modified: str
    filesystem: fsspec.AbstractFileSystem
    path: str

    def open_stored(self, *, read_ahead: bool = True) -> BinaryIO:
        """Open the bytes as they are stored; without ``read_ahead``, S3 is asked for what is read and no more."""
        cache = "readahead" if read_ahead else "none"
        return cast(BinaryIO, self.filesystem.open(self.path, "rb", block_size=READ_AHEAD_BYTES, cache_type=cache))

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the content, decompressed if it is gzip, bzip2 or xz (by content, whatever the name)."""
        with self.open_stored() as file:
            start = file.read(6)
            file.seek(0)
            for magic, decompress in _DECOMPRESSORS.items():
                if start.startswith(magic):
                    with decompress(file) as content:
                        yield cast(BinaryIO, content)
                    return
            yield file

    @property
    def is_compressed(self) -> bool:
        """Whether :meth:`open` decompresses."""
        with self.open_stored() as file:
            return file.read(6).startswith(tuple(_DECOMPRESSORS))


@dataclass(frozen=True)
class CatalogFiles:
    """What an address leads to: one file, or the Parquet files of a folder in the order of their names."""

    uri: str
    is_folder: bool
    files: tuple[CatalogFile, ...]
    path: str
    """The address as the file system spells it."""
    spool: Download | None = None
    """Keeps a downloaded file alive."""

    @property
    def read_errors(self) -> tuple[type[Exception], ...]:
        """What opening and reading may raise where a file is damaged or out of reach."""
        return _read_errors(self.files[0].filesystem)

    def now(self) -> CatalogFiles:
        """What the address leads to by now; CatalogError if to nothing. A download stays what it was."""
        return self if self.spool else _find(self.uri, self.files[0].filesystem, self.path)

    def fingerprint(self) -> str:
        """SHA-256 that changes when the content does, made without reading a large catalogue."""
        digest = hashlib.sha256()
        is_small = sum(file.size_bytes for file in self.files) <= HASHED_BYTES
        for file in self.files:
            version = file.version or (_content_digest(file) if is_small else file.modified)
            name = file.name if self.is_folder else ""
            digest.update(f"{name}\n{file.size_bytes}\n{version}\n".encode())
        return digest.hexdigest()


def find_files(uri: str, storage_options: Mapping[str, Any] | None = None) -> CatalogFiles:
    """Find a catalogue's files.

    Parameters
    ----------
    uri : str
        A path, ``file://``, ``s3://``, ``https://`` or ``http://`` address. An http(s) file is downloaded to a
        temporary file that lives as long as the result.
    storage_options : mapping, optional
        Arguments of ``s3fs.S3FileSystem``. Endpoint and credentials otherwise come from the environment; without
        credentials the bucket is read anonymously.

    Raises
    ------
    CatalogError
        If there is nothing there, it may not be read, or a folder holds no Parquet file.
    """
    scheme, separator, rest = uri.partition("://")
    match scheme.lower() if separator else "path":
        case "path":
            return _find(uri, fsspec.filesystem("file"), str(Path(uri).expanduser().absolute()))
        case "file":
            return _find(uri, fsspec.filesystem("file"), rest)
        case "s3":
            return _find(uri, s3_reader(**(storage_options or {})), rest)
        case "http" | "https":
            spool = download(uri)
            return _find(without_secrets(uri), fsspec.filesystem("file"), spool.path, spool)
        case _:
            raise CatalogError(f"{uri}: a catalogue is a path, s3://, https:// or http://, not {scheme}://")


def describe_failure(error: BaseException) -> str:
    """Say in a few words why something could not be opened or read."""
    match error:
        case FileNotFoundError():
            return "no such file"
        case PermissionError():
            return "permission denied"
        case _:
            return " ".join(str(error).split()) or type(error).__name__


def _find(uri: str, filesystem: fsspec.AbstractFileSystem, path: str, spool: Download | None = None) -> CatalogFiles:
    try:
        info = filesystem.info(path)
        found = filesystem.find(path, detail=True) if info["type"] == "directory" else None
    except _read_errors(filesystem) as error:
        hint = " (no AWS credentials were found)" if getattr(filesystem, "anon", False) else ""
        raise CatalogError(f"{uri}: {describe_failure(error)}{hint}") from error
    if info["type"] == "other":  # a pipe would be waited for, and can be read once only
        raise CatalogError(f"{uri}: neither a file nor a folder")
    if found is None:
        return CatalogFiles(uri, False, (_file(uri, filesystem, info, spool),), path, spool)
    root = info["name"].rstrip("/") + "/"
    files = tuple(
        _file(name.removeprefix(root), filesystem, found[name])
        for name in sorted(found)
        if name.lower().endswith(PARQUET_SUFFIXES) and not _is_hidden(name.removeprefix(root))
    )
    if not files:
        raise CatalogError(f"{uri}: a folder without Parquet files ({len(found)} other files in it); name one file")
    return CatalogFiles(uri, True, files, path)


def _file(
    name: str, filesystem: fsspec.AbstractFileSystem, info: Mapping[str, Any], spool: Download | None = None
) -> CatalogFile:
    version = spool.sha256 if spool else info.get("ETag")
    return CatalogFile(name, int(info["size"] or 0), version, str(info.get("mtime")), filesystem, info["name"])


def _is_hidden(relative: str) -> bool:
    """Whether writers of data sets keep their own notes there (``_metadata``, ``_delta_log/``, ``.part.crc``)."""
    return any(part.startswith(("_", ".")) for part in relative.split("/"))


def _content_digest(file: CatalogFile) -> str:
    digest = hashlib.sha256()
    with file.open_stored() as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _read_errors(filesystem: fsspec.AbstractFileSystem) -> tuple[type[Exception], ...]:
    local = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, pa.ArrowException)
    if "s3" not in filesystem.protocol:
        return local
    from botocore.exceptions import BotoCoreError

    return (*local, BotoCoreError)
