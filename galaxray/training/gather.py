"""From fetched images and the labels of a catalogue to the tables of a data set, in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from galaxray.errors import RunError
from galaxray.schema import EXTRAS, Status
from galaxray.training.vote_counts import count_votes
from galaxray.trees import DecisionTree

__all__ = ["FETCHED_COLUMNS", "check_votes_of", "group_units", "join_labels", "sizes_digest"]

FETCHED_COLUMNS = (
    "row_index",
    "object_id",
    "ra_deg",
    "dec_deg",
    "status",
    "image",
    "image_sha256",
    "pixel_scale_arcsec",
)
"""What is needed of a finished unit."""


def check_votes_of(tree: DecisionTree) -> Callable[[pa.RecordBatch], None]:
    """Make a check of a catalogue's slices, whether the columns of a tree that are read along are votes on it.

    The check raises ConfigError, with column, value and object; see `count_votes`.
    """

    def check(rows: pa.RecordBatch) -> None:
        extras: pa.StructArray = rows[EXTRAS]
        columns = {
            field.name: extras.field(field.name).to_numpy(zero_copy_only=False)
            for field in extras.type
            if field.name in tree.labels
        }
        columns = {
            name: values if values.dtype == object else values.astype(np.float64) for name, values in columns.items()
        }
        count_votes(columns, rows["object_id"].to_pylist(), tree)

    return check


def group_units(
    sizes: npt.NDArray[np.int64], rows_per_unit: int, *, shard_bytes: int, shard_rows: int
) -> Iterator[list[int]]:
    """Cut the units of a run into pieces of a data set: consecutive ones, up to so many bytes and rows together.

    Parameters
    ----------
    sizes : ndarray of int64, shape (num_units,)
        Bytes of the units' files.
    rows_per_unit : int
    shard_bytes, shard_rows : int
        A piece ends with the unit that reaches one of them.

    Yields
    ------
    list of int
        Units of a piece; never empty.
    """
    units: list[int] = []
    size = 0
    for unit, num_bytes in enumerate(sizes.tolist()):
        units.append(unit)
        size += num_bytes
        if size >= shard_bytes or len(units) * rows_per_unit >= shard_rows:
            yield units
            units, size = [], 0
    if units:
        yield units


def sizes_digest(sizes: npt.NDArray[np.int64], units: Sequence[int] | None = None) -> str:
    """SHA-256 of the sizes of units' files: a unit whose failed rows were fetched again has another."""
    chosen = sizes if units is None else sizes[list(units)]
    numbers = [] if units is None else list(units)
    return hashlib.sha256(f"{numbers} {chosen.tolist()}".encode()).hexdigest()


def join_labels(fetched: pa.Table, labels: pa.Table | None) -> pa.Table:
    """Join the images of a unit and its labels, row by row; galaxies without an image are left out.

    Parameters
    ----------
    fetched : pyarrow.Table
        `FETCHED_COLUMNS` of a unit, sorted by ``row_index``.
    labels : pyarrow.Table or None
        Labels of the same rows of the catalogue, in its order.

    Returns
    -------
    pyarrow.Table
        Rows for `Piece.add`.

    Raises
    ------
    RunError
        If they are not the same rows.
    """
    row = fetched["row_index"].to_numpy()
    if (labels is not None and labels.num_rows != len(row)) or (np.diff(row) != 1).any():
        raise RunError(f"images and labels from row {row[0]} on do not fit: use another --output")
    table = fetched.drop_columns(["row_index", "status"])
    if labels is not None:
        for name in labels.column_names:
            table = table.append_column(name, labels[name])
    return table.filter(pc.equal(fetched["status"], Status.OK.value))
