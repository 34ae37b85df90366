"""Catalogues in Parquet: one file, or all files of a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from galaxray.catalog.files import CatalogFile, CatalogFiles, describe_failure
from galaxray.catalog.table import BATCH_ROWS, Field, read_astropy_header

__all__ = ["ParquetTable"]


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
            # Without pre_buffer, whole row groups would be read ahead; by group, what one leaves behind is freed.
            with file.open_stored(read_ahead=False) as stream, pq.ParquetFile(stream, pre_buffer=False) as parquet:
                for name in names:
                    if (count := parquet.schema_arrow.names.count(name)) != 1:
                        raise ValueError(f"{file.name} has {count} columns {name!r}, where one is expected")
                for group in range(parquet.num_row_groups):
                    for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=names):
                        yield batch.select(names)


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
