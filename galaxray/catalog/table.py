"""What every file format offers: its columns, and their values in bounded pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import yaml

__all__ = ["BATCH_ROWS", "Field", "Table", "read_astropy_header"]

BATCH_ROWS = 65_536
"""Rows that a reader takes from a file at once, where the format leaves it the choice."""


@dataclass(frozen=True)
class Field:
    """A column as its file describes it.

    Attributes
    ----------
    name : str
    unit : str or None
        As written: FITS TUNIT, VOTable and ECSV ``unit``.
    ucd : str or None
        Unified Content Descriptor: FITS TUCD, VOTable ``ucd``.
    """

    name: str
    unit: str | None = None
    ucd: str | None = None


def read_astropy_header(lines: list[str]) -> tuple[dict[str, str], str]:
    """Read the YAML header that astropy writes to ECSV and Parquet.

    Returns
    -------
    units : dict
        Unit by column, where there is one.
    delimiter : str
        What separates columns in ECSV.

    Raises
    ------
    ValueError
        If it is no such header.
    """
    try:
        # Text and containers of text, whatever the tags name: astropy's own loader builds units, arrays and times of
        # them, and a unit like 10**9999999999 takes it for ever.
        header = yaml.load("\n".join(lines), Loader=yaml.BaseLoader)
        units = {column["name"]: _text_of(column["unit"]) for column in header["datatype"] if column.get("unit")}
        delimiter = header.get("delimiter", " ")
    except (yaml.YAMLError, LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"its ECSV header cannot be read: {type(error).__name__} {error}") from error
    if delimiter not in (" ", ","):
        raise ValueError("its ECSV header has another delimiter than a blank or a comma")
    return units, delimiter


def _text_of(unit: str | dict[str, str]) -> str:
    """Text of a unit, written plainly or as ``!astropy.units.Unit {unit: deg}``."""
    text = unit if isinstance(unit, str) else unit["unit"]
    if not isinstance(text, str):  # a list that holds itself, or thousands of others by reference
        raise ValueError("a unit that is no text")
    return text


class Table(Protocol):
    """A table in a file: opened, not yet read.

    Attributes
    ----------
    kind : str
        Name of the format, for people.
    fields : tuple of Field
        All columns, in the order of the file.
    num_rows : int or None
        None if only reading tells.
    """

    kind: str
    fields: tuple[Field, ...]
    num_rows: int | None

    def batches(self, columns: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """Read the columns at these positions of ``fields``, and no others, from the first row to the last.

        Batches are bounded in size; their columns come in the order asked for, with the types of the file. Text
        formats give strings, so that no identifier passes through a float.

        Raises
        ------
        CatalogError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError
            If the file is damaged or ends too early.
        """
