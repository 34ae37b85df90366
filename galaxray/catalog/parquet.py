"""Catalogues in Parquet: one file, or all files of a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from galaxray.catalog.files import CatalogFile, CatalogFiles, describe_failure
from galaxray.catalog.table import BATCH_ROWS, Field
from galaxray.errors import CatalogError

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
            footers = list(threads.map(self._read_footer, files.files))
        schema = footers[0].schema.to_arrow_schema()
        self.kind = f"Parquet, {len(footers)} files" if files.is_folder else "Parquet"
        self.num_rows: int | None = sum(footer.num_rows for footer in footers)
        self.fields = tuple(_field(schema.field(position)) for position in range(len(schema)))

    def batches(self, columns: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """Read columns, as :meth:`galaxray.catalog.table.Table.batches` says."""
        names = [self.fields[position].name for position in columns]
        for file in self._files.files:
            # Without pre_buffer, whole row groups would be read ahead; by group, what one leaves behind is freed.
            with file.open_stored() as stream, pq.ParquetFile(stream, pre_buffer=False) as parquet:
                if absent := [name for name in names if name not in parquet.schema_arrow.names]:
                    raise CatalogError(f"{self._name(file)}: no column {absent[0]!r}, which the first file has")
                for group in range(parquet.num_row_groups):
                    for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=names):
                        yield batch.select(names)

    def _read_footer(self, file: CatalogFile) -> pq.FileMetaData:
        try:
            with file.open_stored() as stream:
                return pq.read_metadata(stream)
        except (OSError, pa.ArrowException) as error:
            raise CatalogError(f"{self._name(file)}: damaged or no Parquet: {describe_failure(error)}") from error

    def _name(self, file: CatalogFile) -> str:
        return f"{self._files.uri.rstrip('/')}/{file.name}" if self._files.is_folder else file.name


def _field(field: pa.Field) -> Field:
    notes = {
        key.decode().lower(): value.decode()
        for key, value in (field.metadata or {}).items()
        if key != b"PARQUET:field_id"
    }
    return Field(field.name, notes.get("unit"), notes.get("ucd"))
