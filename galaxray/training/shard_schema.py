"""The columns of a data set of labelled images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from galaxray.errors import ConfigError

__all__ = ["FIXED_COLUMNS", "conform", "label_kinds", "shard_schema"]

FIXED_COLUMNS = pa.schema(
    [
        pa.field("object_id", pa.string(), nullable=False),
        pa.field("ra_deg", pa.float64()),
        pa.field("dec_deg", pa.float64()),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("image_sha256", pa.string(), nullable=False),
        pa.field("pixel_scale_arcsec", pa.float64()),
    ]
)
"""Columns that every shard has, before its labels: the file as it came, and where and how large its galaxy is."""


def label_kinds(schema: pa.Schema) -> dict[str, str]:
    """Label columns of a table, and what each is kept as: ``"int64"``, ``"float64"`` or ``"string"``.

    Raises
    ------
    ConfigError
        If one is neither number nor text.
    """
    return {field.name: _kind(field) for field in schema if field.name not in FIXED_COLUMNS.names}


def _kind(field: pa.Field) -> str:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return "int64"
    if pa.types.is_floating(kind):
        return "float64"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return "string"
    raise ConfigError(f"label column {field.name!r} holds {field.type}, neither numbers nor text")


def shard_schema(labels: Mapping[str, str]) -> pa.Schema:
    """Schema of the shards of a data set, from its label columns and their kinds."""
    return pa.schema([*FIXED_COLUMNS, *(pa.field(name, pa.type_for_alias(kind)) for name, kind in labels.items())])


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Bring a table of labelled images into the columns, order and types of a shard.

    Raises
    ------
    ConfigError
        If it lacks a column or has another, an image or identifier is null, or a label is not of its column's kind.
    """
    columns = {name: table[name] for name in table.column_names}
    for name in ("object_id", "image"):
        if name not in columns:
            raise ConfigError(f"a table of labelled images has no column {name!r}")
        if columns[name].null_count:
            raise ConfigError(f"a table of labelled images has {columns[name].null_count} rows without {name}")
    if "image_sha256" not in columns:
        columns["image_sha256"] = pa.array([hashlib.sha256(image.as_py()).hexdigest() for image in columns["image"]])
    unexpected = [name for name in columns if name not in schema.names]
    if unexpected:
        raise ConfigError(f"label column {unexpected[0]!r} is not in all tables")
    arrays = []
    for field in schema:
        if field.name not in columns:
            if field.name not in FIXED_COLUMNS.names:
                raise ConfigError(f"label column {field.name!r} is not in all tables")
            columns[field.name] = pa.nulls(table.num_rows, field.type)
        try:
            arrays.append(_plain(columns[field.name]).cast(field.type))
        except pa.ArrowInvalid as error:
            raise ConfigError(f"column {field.name!r} holds what is no {field.type}: {error}") from error
    # NaN is a missing number too, and must be told by null alone
    arrays = [
        pc.if_else(pc.is_nan(array), None, array) if pa.types.is_floating(array.type) else array for array in arrays
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _plain(array: Any) -> Any:
    return array.cast(array.type.value_type) if pa.types.is_dictionary(array.type) else array
