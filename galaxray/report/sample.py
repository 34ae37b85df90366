"""Read what the report shows of a run folder: a bounded sample, however large the table.

Counts come from ``summary.json`` and are exact. Distributions come from rows spread evenly over the table, and
pictures from ``thumbnails/``: a few hundred cutouts that the run keeps (``row_index`` int64, ``jpeg`` binary), in files
of the same names as the units of ``annotations/`` that hold their rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from galaxray.batches import from_table
from galaxray.schema import Status
from galaxray.storage import Folder

__all__ = ["Rows", "Sample", "num_rows", "read_json", "read_sample", "take"]

Rows = dict[str, npt.NDArray[Any]]
"""Columns of some rows; object arrays of strings and bytes with None for null, NaN for a null number."""

Item = TypeVar("Item")

MAX_UNITS = 200
MAX_ROWS = 50_000
MAX_EMBEDDINGS = 5_000
MAX_PICTURES = 240
MAX_FAILURES = 2_000

_MASKS = ("spiral_mask", "bar_mask")
_NOT_SHOWN = ("image_sha256", "attempts", "image")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Rows of a run that stand for all of them.

    Attributes
    ----------
    rows : Rows
        Rows of any status, spread evenly over the table; no masks, no interval edges.
    embedding : ndarray of float32, shape (len(embedded), d)
    embedded : ndarray of int
        Which of `rows` they belong to.
    pictures : Rows
        Rows whose picture was kept, with ``jpeg``, masks and interval edges.
    failures : Rows
        Some of the rows that are not ok.
    complete : bool
        Whether `rows` are all rows.
    """

    rows: Rows
    embedding: npt.NDArray[np.float32]
    embedded: npt.NDArray[np.int64]
    pictures: Rows
    failures: Rows
    complete: bool


def num_rows(rows: Rows) -> int:
    """Count the rows; 0 where there are not even columns."""
    return len(next(iter(rows.values()), ()))


def take(rows: Rows, which: npt.NDArray[Any]) -> Rows:
    """Select rows by index or mask."""
    return {name: values[which] for name, values in rows.items()}


def read_json(folder: Folder, name: str) -> dict[str, Any]:
    """Read a JSON file of the run folder; empty if it is not there."""
    if not folder.exists(name):
        return {}
    content: dict[str, Any] = json.loads(folder.read(name))
    return content


def read_sample(folder: Folder) -> Sample:
    """Read a sample of the table and the pictures, within fixed bounds of memory and of files opened."""
    units = [name for name in folder.list("annotations") if name.endswith(".parquet")]
    chosen = _spread(units, MAX_UNITS)
    quota = -(-MAX_ROWS // max(1, len(chosen)))
    tables, failures, num_seen, num_failures = [], [], 0, 0
    for name in chosen:
        table = _read_unit(folder, name, with_picture=False)
        num_seen += table.num_rows
        tables.append(table.take(pa.array(_spread(range(table.num_rows), quota), pa.int64())))
        if num_failures < MAX_FAILURES:
            failures.append(_scalars(table.filter(pc.not_equal(table["status"], Status.OK.value))))
            num_failures += failures[-1].num_rows
    sample = _concat(tables)
    embedding, embedded = _embeddings(sample)
    return Sample(
        rows=from_table(_scalars(sample)),
        embedding=embedding,
        embedded=embedded,
        pictures=_read_pictures(folder, units),
        failures=from_table(_concat(failures).slice(0, MAX_FAILURES)),
        complete=len(chosen) == len(units) and sample.num_rows == num_seen,
    )


def _read_pictures(folder: Folder, units: Sequence[str]) -> Rows:
    tables: list[pa.Table] = []
    with_picture = _spread(sorted(set(folder.list("thumbnails")) & set(units)), MAX_PICTURES)
    for name in with_picture:
        with folder.open(f"thumbnails/{name}") as file:
            kept = from_table(pq.read_table(file, columns=["row_index", "jpeg"]))
        jpegs = dict(zip(kept["row_index"].tolist(), kept["jpeg"], strict=True))
        jpegs = {row: jpegs[row] for row in _spread(list(jpegs), -(-MAX_PICTURES // len(with_picture)))}
        table = _read_unit(folder, name, with_picture=True)
        table = table.filter(pc.is_in(table["row_index"], pa.array(jpegs, pa.int64())))
        pictures = [jpegs[row] for row in table["row_index"].to_pylist()]
        tables.append(table.append_column("jpeg", pa.array(pictures, pa.large_binary())))
    return from_table(_concat(tables).slice(0, MAX_PICTURES))


def _read_unit(folder: Folder, name: str, *, with_picture: bool) -> pa.Table:
    """Columns that are needed: with a picture go its masks and interval edges, without it the embedding."""
    with folder.open(f"annotations/{name}") as file:
        parquet = pq.ParquetFile(file)
        columns = []
        for field in parquet.schema_arrow:
            goes_with_picture = field.name in _MASKS or "pc-" in field.name
            goes_without = pa.types.is_fixed_size_list(field.type)
            if field.name not in _NOT_SHOWN and not (goes_without if with_picture else goes_with_picture):
                columns.append(field.name)
        return parquet.read(columns=columns)


def _embeddings(table: pa.Table) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    if "embedding" not in table.column_names:
        return np.empty((0, 0), np.float32), np.empty(0, np.int64)
    column = table["embedding"].combine_chunks()
    valid = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False)).tolist()
    rows = np.array(_spread(valid, MAX_EMBEDDINGS), np.int64)
    vectors = column.take(pa.array(rows)).flatten().to_numpy().reshape(len(rows), column.type.list_size)
    finite = np.isfinite(vectors).all(axis=1)
    return vectors[finite], rows[finite]


def _scalars(table: pa.Table) -> pa.Table:
    return table.drop_columns([field.name for field in table.schema if pa.types.is_fixed_size_list(field.type)])


def _concat(tables: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables, promote_options="default") if tables else pa.table({})


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most ``count`` of the items, evenly spaced."""
    if len(items) <= count:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]
