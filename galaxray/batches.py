"""Batches of galaxies, and how they travel between processes.

A batch is a ``dict`` of equally long arrays: what every stage takes and gives. Strings and bytes are object
arrays with ``None`` for what is missing; images are ``uint8`` arrays of shape (N, size, size, 3).

Between stages a batch is packed into one Arrow message, so that a work unit is one indivisible row to Ray Data.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

__all__ = ["Batch", "from_table", "num_rows", "pack", "text_array", "unpack"]

Batch = dict[str, np.ndarray]


def num_rows(batch: Batch) -> int:
    """Number of galaxies in a batch."""
    return len(batch["row_index"])


def text_array(values: list[Any]) -> np.ndarray:
    """Object array of strings, bytes or ``None``, of shape (N,), whatever the values look like."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def from_table(table: pa.Table) -> Batch:
    """Batch with the columns of an Arrow table of numbers, strings and bytes."""
    return {name: _to_numpy(column) for name, column in zip(table.column_names, table.columns, strict=True)}


def pack(batch: Batch, notes: dict[str, Any] | None = None) -> bytes:
    """Serialise a batch, with notes about it (JSON values), as an Arrow IPC stream."""
    table = pa.table({name: _to_arrow(array) for name, array in batch.items()})
    table = table.replace_schema_metadata({"notes": json.dumps(notes or {})})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def unpack(content: bytes | memoryview) -> tuple[Batch, dict[str, Any]]:
    """Inverse of :func:`pack`. Numbers and images are read-only views of ``content``."""
    table = pa.ipc.open_stream(pa.py_buffer(content)).read_all()
    return from_table(table), json.loads(table.schema.metadata[b"notes"])


def _to_arrow(array: np.ndarray) -> pa.Array:
    if array.dtype == object:
        kind = next((type(value) for value in array if value is not None), str)
        # large_binary: a unit of large images passes the 2 GiB that 32-bit offsets reach
        return pa.array(array, type=pa.large_binary() if kind is bytes else pa.string(), from_pandas=True)
    if array.ndim > 1:
        shape = array.shape[1:]
        flat = pa.array(np.ascontiguousarray(array).reshape(-1))
        storage = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(shape)))
        return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(flat.type, shape), storage)
    return pa.array(array)


def _to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # combine_chunks of an empty column
        return np.empty(0, dtype=object)
    if isinstance(array, pa.FixedShapeTensorArray):
        images: np.ndarray = array.storage.flatten().to_numpy().reshape(-1, *array.type.shape)
        return images
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type):
        return text_array(array.to_pylist())
    numbers: np.ndarray = array.to_numpy(zero_copy_only=False)
    return numbers
