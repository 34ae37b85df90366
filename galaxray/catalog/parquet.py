"""Catalogues in Parquet: one file, or all files of a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from galaxray.catalog.files import CatalogFile, CatalogFiles, describe_failure
from galaxray.catalog.table import BATCH_ROWS, Field, read_astropy_header

__all__ = ["ParquetTable"]

MAX_TEXT_BYTES = 4096
"""Longest identifier or path: as long as a path may be. A file of a few KB may hold a longer one a billion times."""
_TEXT_TYPES = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
)


class ParquetTable:
    """Parquet files with the same columns, one after the other in the order of their names.

    Raises
    ------
    CatalogError
        If a file is damaged.
    """

    def __init__(self, files: CatalogFiles) -> None:
        self._files = files
        with ThreadPoolExecutor(16) as threads:  # a footer is a short read: latency, not bandwidth
            counts = list(threads.map(_count_rows, files.files))
        self.kind = f"Parquet, {len(counts)} files" if files.is_folder else "Parquet"
        self.num_rows: int | None = sum(counts)
        with files.files[0].open_stored(read_ahead=False) as stream:
            self.fields = _fields(pq.read_schema(stream))

    def batches(self, columns: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """Read columns, as :meth:`galaxray.catalog.table.Table.batches` says."""
        names = [self.fields[position].name for position in columns]
        for file in self._files.files:
            with file.open_stored(read_ahead=False) as stream:
                yield from _read(file.name, stream, names)


def _read(file_name: str, stream: BinaryIO, names: list[str]) -> Iterator[pa.RecordBatch]:
    schema = pq.read_schema(stream)
    for name in names:
        if (count := schema.names.count(name)) != 1:
            raise ValueError(f"{file_name} has {count} columns {name!r}, where one is expected")
    stream.seek(0)
    # Without pre_buffer, whole row groups would be read ahead; by group, what one leaves behind is freed.
    # Text stays in the dictionary that it is stored with: a long one may stand in every row, and take no room there.
    text = [name for name in names if _is_text(schema.field(name).type)]
    with pq.ParquetFile(stream, pre_buffer=False, read_dictionary=text) as parquet:
        for group in range(parquet.num_row_groups):
            for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=names):
                batch = batch.select(names)
                _require_short(batch)
                yield batch


def _require_short(batch: pa.RecordBatch) -> None:
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        values = column.dictionary if pa.types.is_dictionary(column.type) else column
        if _is_text(values.type):
            longest = pc.max(pc.binary_length(values)).as_py() or 0
            if longest > MAX_TEXT_BYTES:
                raise ValueError(f"column {name!r} holds a text of {longest} bytes; {MAX_TEXT_BYTES} are the limit")


def _is_text(kind: pa.DataType) -> bool:
    return any(test(kind) for test in _TEXT_TYPES)


def _count_rows(file: CatalogFile) -> int:
    with file.open_stored(read_ahead=False) as stream:
        try:
            return int(pq.read_metadata(stream).num_rows)
        except pa.ArrowException as error:
            raise ValueError(f"{file.name}: {describe_failure(error)}") from error


def _fields(schema: pa.Schema) -> tuple[Field, ...]:
    """Columns with their units, where the fields' own metadata or astropy (which writes an ECSV header) give them."""
    header = (schema.metadata or {}).get(b"table_meta_yaml")
    units, _ = read_astropy_header(header.decode().splitlines()) if header else ({}, "")
    fields = []
    for field in schema:
        notes = {key.lower(): value.decode() for key, value in (field.metadata or {}).items()}
        fields.append(Field(field.name, notes.get(b"unit") or units.get(field.name), notes.get(b"ucd")))
    return tuple(fields)
