"""What every file format offers: its columns, and their values in bounded pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
from astropy.table.meta import YamlParseError, get_header_from_yaml

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
        header = get_header_from_yaml(lines)
        units = {column["name"]: str(column["unit"]) for column in header["datatype"] if column.get("unit")}
        return units, str(header.get("delimiter", " "))
    except (YamlParseError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"its ECSV header cannot be read: {type(error).__name__} {error}") from error


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
