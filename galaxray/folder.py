"""What a run folder is, on a disk or in object storage: files that appear whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, Protocol

__all__ = ["Entry", "Folder"]


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
