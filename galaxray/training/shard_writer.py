"""Writes a data set piece by piece, so that an interrupted program goes on with the next one."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from galaxray import __version__
from galaxray.errors import RunMismatchError
from galaxray.storage import Folder
from galaxray.storage_errors import storage_errors
from galaxray.training.shard_schema import conform, shard_schema
from galaxray.training.splits import SPLITS, check_fractions, split_of

__all__ = ["DATASET", "FORMAT", "SHARD_BYTES", "SHARD_NAME", "SHARD_ROWS", "Piece", "ShardWriter"]

DATASET = "dataset.json"
FORMAT = "galaxray-dataset-1"
_PIECE = re.compile(r"piece-\d{5,}\.json")
SHARD_NAME = re.compile(r"(train|val|test)-\d{5,}\.parquet")
SHARD_BYTES = 256 * 2**20
SHARD_ROWS = 100_000
GROUP_ROWS = 256
GROUP_BYTES = 16 * 2**20
"""A row group is what is read for the sake of one image, and what a piece holds of each split in memory."""


class ShardWriter:
    """Writes a data set into a folder, piece by piece.

    A piece becomes at most one shard of each split. It is there when its ``piece-*.json`` is.

    Parameters
    ----------
    folder : Folder
    labels : mapping of str to str
        Label columns and their kinds, as from `label_kinds`.
    val, test, seed
        See `galaxray.training.splits.split_of`.

    Raises
    ------
    ConfigError
        If the fractions are none.
    """

    def __init__(
        self, folder: Folder, labels: Mapping[str, str], *, val: float = 0.1, test: float = 0.1, seed: int = 0
    ) -> None:
        check_fractions(val, test)
        self.folder = folder
        self.settings: dict[str, Any] = {
            "labels": dict(labels),
            "split": {"val": val, "test": test, "seed": seed},
        }
        self.schema = shard_schema(labels)

    def has(self, number: int, origin: str = "") -> bool:
        """Whether a piece is written, from what ``origin`` tells.

        Raises
        ------
        RunMismatchError
            If it was written with other settings; the message names the keys.
        """
        if not self.folder.exists(_piece_name(number)):
            return False
        record = self._record(number)
        self.require_same(record["settings"])
        return bool(record["origin"] == origin)

    def require_same(self, record: Mapping[str, Any]) -> None:
        """Refuse to go on with what was written with other settings; RunMismatchError names the keys."""
        differences = [
            f"{section}.{key} was {record[section].get(key)!r}, is {settings.get(key)!r}"
            for section, settings in self.settings.items()
            for key in record[section] | settings
            if record[section].get(key) != settings.get(key)
        ]
        if differences:
            raise RunMismatchError(
                f"{self.folder.root} holds a data set that was made otherwise: {'; '.join(differences)}. "
                "Use another --output, or the settings of that one to go on with it."
            )

    def piece(self, number: int, origin: str = "") -> Piece:
        """Begin a piece, in a ``with`` statement that ends it.

        Parameters
        ----------
        number : int
            Counts from 0.
        origin : str
            Tells what it is made from, such as a digest; see `has`.
        """
        return Piece(self, number, origin)

    def finish(self, num_pieces: int, source: Mapping[str, Any], **about: Any) -> dict[str, Any]:
        """Write ``dataset.json``, which says that all pieces are there.

        Parameters
        ----------
        num_pieces : int
        source : mapping
            Where the images come from (JSON values).
        **about
            What else is to be in the record (JSON values).

        Returns
        -------
        dict
            The record.
        """
        shards = [shard for number in range(num_pieces) for shard in self._record(number)["shards"]]
        shards.sort(key=lambda shard: (SPLITS.index(shard["name"].partition("-")[0]), shard["name"]))
        digest = hashlib.sha256("".join(f"{shard['name']} {shard['sha256']}\n" for shard in shards).encode())
        num = {split: sum(s["rows"] for s in shards if s["name"].startswith(f"{split}-")) for split in SPLITS}
        record = {
            "format": FORMAT,
            "num": num,
            **self.settings,
            **about,
            "source": dict(source),
            "digest": digest.hexdigest(),
            "shards": shards,
            "galaxray_version": __version__,
        }
        with storage_errors(self.folder.root):
            self.folder.write(DATASET, json.dumps(record, indent=2).encode())
            self._tidy({shard["name"] for shard in shards})
        return record

    def _tidy(self, shards: set[str]) -> None:
        """Remove what the finished data set does not need: records of pieces, and shards of one that was given up."""
        for name in self.folder.list(""):
            if _PIECE.fullmatch(name) or (SHARD_NAME.fullmatch(name) and name not in shards):
                self.folder.remove(name)

    def _record(self, number: int) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.folder.read(_piece_name(number)))
        return record


class Piece:
    """A part of a data set while it is written: on a local disk, until it is whole. Used in a ``with`` statement."""

    def __init__(self, writer: ShardWriter, number: int, origin: str) -> None:
        self.writer = writer
        self.number = number
        self.origin = origin
        self.num_rows = 0
        self.num_bytes = 0
        self._scratch = tempfile.TemporaryDirectory(prefix="galaxray-")
        self._shards: dict[str, _Shard] = {}

    def add(self, table: pa.Table) -> None:
        """Add rows, each to the shard of its split.

        Parameters
        ----------
        table : pyarrow.Table
            ``object_id`` and ``image``; if known the other columns of `FIXED_COLUMNS`; the labels.

        Raises
        ------
        ConfigError
            If it lacks a column, or has an image or identifier that is null.
        """
        table = conform(table, self.writer.schema)
        split = split_of(table["object_id"].to_pylist(), **self.writer.settings["split"])
        for name in SPLITS:
            rows = table.filter(pa.array(split == name))
            if rows.num_rows:
                if name not in self._shards:
                    path = Path(self._scratch.name) / f"{name}.parquet"
                    self._shards[name] = _Shard(path, self.writer.schema)
                self._shards[name].add(rows)
        self.num_rows += table.num_rows
        self.num_bytes += table.nbytes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._commit()
        finally:
            for shard in self._shards.values():
                shard.abandon()
            self._scratch.cleanup()

    def _commit(self) -> None:
        """Move the shards into the folder, and write down that they are there."""
        records = []
        folder = self.writer.folder
        with storage_errors(folder.root):
            for split, shard in sorted(self._shards.items()):
                name = f"{split}-{self.number:05d}.parquet"
                records.append({"name": name, **shard.close()})
                folder.adopt(shard.path, name)
            record = {"origin": self.origin, "settings": self.writer.settings, "shards": records}
            folder.write(_piece_name(self.number), json.dumps(record).encode())


class _Shard:
    """A Parquet file that grows by row groups."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.rows = 0
        self._waiting: list[pa.Table] = []
        others = [name for name in schema.names if name != "image"]
        # To compress an image once more, or to look for two that are the same, costs time and gains nothing.
        self._file = pq.ParquetWriter(
            path,
            schema,
            compression=dict.fromkeys(others, "zstd") | {"image": "none"},
            use_dictionary=others,
            write_statistics=others,
        )

    def add(self, table: pa.Table) -> None:
        self._waiting.append(table)
        self.rows += table.num_rows
        num_rows, num_bytes = (sum(getattr(part, size) for part in self._waiting) for size in ("num_rows", "nbytes"))
        if num_rows >= GROUP_ROWS or num_bytes >= GROUP_BYTES:
            self._flush()

    def close(self) -> dict[str, Any]:
        """Finish the file; its rows, bytes and digest."""
        self._flush()
        self._file.close()
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"rows": self.rows, "bytes": self.path.stat().st_size, "sha256": digest}

    def abandon(self) -> None:
        """Close a file that is not to be kept; nothing happens to one that is closed."""
        with suppress(OSError, pa.ArrowException):
            self._file.close()

    def _flush(self) -> None:
        if self._waiting:
            table = pa.concat_tables(self._waiting)
            average = max(1, table.nbytes // table.num_rows)
            self._file.write_table(table, row_group_size=max(1, min(GROUP_ROWS, GROUP_BYTES // average)))
            self._waiting = []


def _piece_name(number: int) -> str:
    return f"piece-{number:05d}.json"
