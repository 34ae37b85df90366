"""The definition of the output table: columns, units and status values.

Everything that writes or reads ``annotations/*.parquet`` takes the columns from here. The rule of the table: one
row for every catalogue row, and predictions are null whenever ``status`` is not ``ok``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from galaxray.batches import Batch

__all__ = ["COLUMNS", "EXTRAS", "TRANSIENT_STATUSES", "Column", "Status", "describe_column", "is_reserved", "to_table"]


class Status(StrEnum):
    """What became of a catalogue row (column ``status``)."""

    OK = "ok"
    BAD_COORDINATES = "bad_coordinates"
    """The position is missing or not on the sky."""
    NOT_COVERED = "not_covered"
    """The survey has no image there (or the file does not exist)."""
    BLANK = "blank"
    """An image came, but it is empty, black or constant."""
    CORRUPT = "corrupt"
    """What came is no image that can be trusted: truncated, HTML, of the wrong size, too large."""
    THROTTLED = "throttled"
    """The service refused for the moment (429, 503), however often it was asked."""
    UNREACHABLE = "unreachable"
    """No answer: connection, time-out or server error, however often it was asked."""
    MODEL_ERROR = "model_error"
    """The image is good, a model failed on it."""


TRANSIENT_STATUSES = frozenset({Status.THROTTLED, Status.UNREACHABLE})
"""Statuses that another try may mend; ``--retry-failed`` re-does these rows."""


class Column(NamedTuple):
    """One column of the table: Arrow type, unit and meaning."""

    type: pa.DataType
    unit: str
    meaning: str


COLUMNS: dict[str, Column] = {
    "row_index": Column(pa.int64(), "", "position of the row in the catalogue, from 0"),
    "object_id": Column(pa.string(), "", "identifier in the catalogue"),
    "ra_deg": Column(pa.float64(), "deg", "right ascension (ICRS)"),
    "dec_deg": Column(pa.float64(), "deg", "declination (ICRS)"),
    "status": Column(pa.string(), "", "ok, or why there is no prediction: " + ", ".join(Status)),
    "error": Column(pa.string(), "", "the reason in words; null when ok"),
    "attempts": Column(pa.int16(), "", "how often the image was asked for"),
    "image_url": Column(pa.string(), "", "address of the image that was looked at"),
    "image_sha256": Column(pa.string(), "", "SHA-256 of the bytes of that image"),
    "image_width": Column(pa.int32(), "pixel", "width of that image"),
    "image_height": Column(pa.int32(), "pixel", "height of that image"),
    "pixel_scale_arcsec": Column(pa.float64(), "arcsec/pixel", "pixel scale of that image"),
    "image": Column(pa.binary(), "", "the image as it came, where --cutouts.keep asks for it"),
    "label": Column(pa.string(), "", "most probable class"),
    "confidence": Column(pa.float32(), "", "probability of that class"),
    "reconstruction_error": Column(pa.float32(), "", "mean squared error of the autoencoder, for pixels in 0..1"),
    "spiral_mask": Column(pa.binary(), "", "PNG, uint8: share of volunteers who would mark spiral arms; 255 = all"),
    "bar_mask": Column(pa.binary(), "", "PNG, uint8: share of volunteers who would mark a bar; 255 = all"),
    "spiral_fraction": Column(pa.float32(), "", "share of the image's pixels that half of the volunteers mark as arms"),
    "bar_fraction": Column(pa.float32(), "", "share of the image's pixels that half of the volunteers mark as bar"),
    "bar_length_arcsec": Column(pa.float32(), "arcsec", "full length of the bar"),
    "bar_angle_deg": Column(pa.float32(), "deg", "position angle of the bar, east of north, 0..180"),
}
"""The fixed columns, in the order of the table. Columns named by a model (vote fractions, probabilities, regression
targets) are float32, and ``embedding`` is a fixed-size list of float32; they follow the columns of the image."""

_NAMED_BY_MODEL = (
    ("_fraction", "expected fraction of the votes on the question that go to this answer"),
    ("_90pc-lower", "lower edge of the central 90 % interval of that fraction"),
    ("_90pc-upper", "upper edge of the central 90 % interval of that fraction"),
    ("_proportion-asked", "expected proportion of volunteers who are asked the question"),
    ("_probability", "probability of this class"),
)
"""Endings of columns that a model names, and what they mean."""

EXTRAS = "extras"
"""Column of the checked catalogue that holds what is read along, a struct: its names are the catalogue's, and may be
any. It is no column of the table."""

_CATALOG_COLUMNS = ("row_index", "object_id", "ra_deg", "dec_deg", "status", "error", "attempts")
_IMAGE_COLUMNS = ("image_url", "image_sha256", "image_width", "image_height", "pixel_scale_arcsec", "image")
_WORKING_COLUMNS = frozenset({"path", "size_arcsec", "image_bytes", "thumbnail"})
"""Columns that stages hand to each other and that are no part of the table."""


def is_reserved(name: str) -> bool:
    """Whether a model must not name a column so: it is one of the table's own, or one that stages work with."""
    return name in COLUMNS or name in _WORKING_COLUMNS or name == "embedding" or name.startswith("image_")


def describe_column(name: str) -> tuple[str, str]:
    """Unit and meaning of a column of the table, whether fixed or named by a model."""
    if name in COLUMNS:
        return COLUMNS[name].unit, COLUMNS[name].meaning
    if name == "embedding":
        return "", "coordinates in the latent space of the autoencoder"
    meanings = (meaning for ending, meaning in _NAMED_BY_MODEL if name.endswith(ending))
    return "", next(meanings, "target of a regression")


def to_table(batch: Batch) -> pa.Table:
    """Table of a finished batch.

    Parameters
    ----------
    batch : dict of str to ndarray
        What the last stage gave: the fixed columns, predictions, and working columns (dropped here).

    Returns
    -------
    pyarrow.Table
        Columns as in :data:`COLUMNS`, each field with its unit and meaning as metadata. Predictions of a row that
        is not ok are null, as is every NaN.
    """
    ok = batch["status"] == Status.OK
    names = [name for name in (*_CATALOG_COLUMNS, *_IMAGE_COLUMNS) if name in batch]
    names += [name for name in batch if name not in names and name not in _WORKING_COLUMNS and batch[name].ndim < 4]
    fields, arrays = [], []
    for name in names:
        is_prediction = name not in _CATALOG_COLUMNS and name not in _IMAGE_COLUMNS
        array = _to_arrow(name, batch[name], ~ok if is_prediction else None)
        notes = dict(zip(("unit", "description"), describe_column(name), strict=True))
        fields.append(pa.field(name, array.type, nullable=name != "row_index", metadata=notes))
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _to_arrow(name: str, values: np.ndarray, missing: np.ndarray | None) -> pa.Array:
    if values.ndim == 2:  # embedding
        flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(
            flat, values.shape[1], mask=None if missing is None else pa.array(missing)
        )
    column_type = COLUMNS[name].type if name in COLUMNS else pa.from_numpy_dtype(values.dtype)
    if missing is None:
        missing = np.zeros(len(values), dtype=bool)
    if values.dtype.kind == "f":
        missing = missing | np.isnan(values)
    elif name in ("image_width", "image_height"):
        missing = missing | (values == 0)
    return pa.array(values, type=column_type, mask=missing, from_pandas=True)
