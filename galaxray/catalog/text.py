"""Catalogues in text: CSV, TSV (or another separator) and ECSV, streamed."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv

from galaxray.catalog.files import CatalogFile
from galaxray.catalog.table import Field, read_astropy_header
from galaxray.errors import CatalogError

__all__ = ["TextTable"]

HEADER_BYTES = 2**20
"""The header, the comments before it and the first row stand within so many bytes."""
BLOCK_BYTES = 4 * 2**20
SEPARATORS = {",": "CSV", "\t": "TSV", ";": "CSV with semicolons", "|": "CSV with bars"}


class TextTable:
    """A table in a text file; every column is read as text.

    Blank lines and comments (``#``) are skipped, before the header and between rows. The header may itself be the
    last comment. Rows follow the quoting rules of CSV: a quoted value may hold separators and line ends.

    Parameters
    ----------
    file : CatalogFile
    separator : str, optional
        What separates columns; by the header line where left out.

    Raises
    ------
    CatalogError
        If the file has no header or no rows.
    """

    num_rows: int | None = None

    def __init__(self, file: CatalogFile, *, separator: str | None = None) -> None:
        self._file = file
        with file.open() as stream:
            start = stream.read(HEADER_BYTES)
        layout = _ecsv_layout(file, start) if start.startswith(b"# %ECSV") else _csv_layout(file, start, separator)
        self.kind, self.fields, self._separator, self._data_offset = layout

    def batches(self, columns: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """Read columns, as :meth:`galaxray.catalog.table.Table.batches` says."""
        names = [f"f{position}" for position in range(len(self.fields))]  # names in the file may repeat
        wanted = [names[position] for position in columns]
        ragged: list[Any] = []

        def on_ragged_row(row: Any) -> str:
            if row.text.lstrip().startswith("#") or not row.text.strip():
                return "skip"
            ragged.append(row)
            return "error"

        with self._file.open() as stream:
            stream.seek(self._data_offset)
            try:
                with pyarrow.csv.open_csv(
                    stream,
                    read_options=pyarrow.csv.ReadOptions(column_names=names, block_size=BLOCK_BYTES),
                    parse_options=pyarrow.csv.ParseOptions(
                        delimiter=self._separator, newlines_in_values=True, invalid_row_handler=on_ragged_row
                    ),
                    convert_options=pyarrow.csv.ConvertOptions(
                        include_columns=wanted,
                        column_types=dict.fromkeys(wanted, pa.string()),
                        strings_can_be_null=False,
                    ),
                ) as reader:
                    yield from reader
            except pa.ArrowInvalid as error:
                raise ValueError(self._explain(error, ragged, columns)) from error

    def _explain(self, error: pa.ArrowInvalid, ragged: list[Any], columns: Sequence[int]) -> str:
        if ragged:
            row = ragged[0]
            return f"a row has {row.actual_columns} columns, the header has {row.expected_columns}: {row.text[:60]!r}"
        if "UTF8" in str(error):
            names = ", ".join(self.fields[position].name for position in columns)
            return f"one of the columns {names} is no UTF-8 text; convert the file (iconv -f latin1 -t utf-8)"
        return str(error)


@dataclass(frozen=True)
class _Line:
    number: int
    text: str
    start: int
    end: int


_Layout = tuple[str, tuple[Field, ...], str, int]
"""Kind, fields, separator, and the byte offset where the rows begin."""


def _csv_layout(file: CatalogFile, start: bytes, separator: str | None) -> _Layout:
    comment, header, row = _first_lines(file, start)
    separator = separator or _separator(file, header.text)
    names = _split(header.text, separator)
    offset = header.end
    if comment is not None and any(_is_number(name) for name in names):
        commented = _split(comment.text.lstrip("# "), separator)
        if len(commented) == len(names):
            names, row, offset = commented, header, header.start
    if row is None and len(start) < HEADER_BYTES:
        raise CatalogError(f"{file.name}: a header but no rows")
    if row is not None and row.text.count('"') % 2 == 0 and len(_split(row.text, separator)) != len(names):
        raise CatalogError(
            f"{file.name}: no table: line {header.number}, taken for the header, has {len(names)} columns and "
            f"line {row.number} has {len(_split(row.text, separator))}; begin the lines of a preamble with #"
        )
    return SEPARATORS[separator], tuple(Field(name.strip()) for name in names), separator, offset


def _ecsv_layout(file: CatalogFile, start: bytes) -> _Layout:
    _, header, row = _first_lines(file, start)
    comments = start[: header.start].decode("utf-8").splitlines()
    units, separator = read_astropy_header([line.removeprefix("#").removeprefix(" ") for line in comments[1:]])
    if row is None and len(start) < HEADER_BYTES:
        raise CatalogError(f"{file.name}: a header but no rows")
    return "ECSV", tuple(Field(name, units.get(name)) for name in _split(header.text, separator)), separator, header.end


def _first_lines(file: CatalogFile, start: bytes) -> tuple[_Line | None, _Line, _Line | None]:
    """Find the last comment before the header, the header, and the first row."""
    comment = header = None
    for line in _lines(start):
        if not line.text.strip("# \t"):
            continue
        if line.text.lstrip().startswith("#"):
            comment = comment if header else line
        elif header is None:
            header = line
        else:
            return comment, header, line
    if header is None:
        raise CatalogError(f"{file.name}: no table in it, only comments or blank lines")
    return comment, header, None


def _lines(start: bytes) -> Iterator[_Line]:
    """Complete lines at the beginning of a file, with the byte offsets where they start and end."""
    offset = len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0
    for number, match in enumerate(re.compile(rb"([^\r\n]*)(\r\n|\n|\r|\Z)").finditer(start, offset), 1):
        if match.end() == match.start() or (not match[2] and len(start) == HEADER_BYTES):
            return
        # Names are compared in ASCII, so that a stray byte in another column's name does no harm.
        yield _Line(number, match[1].decode("utf-8", errors="replace"), match.start(), match.end())


def _separator(file: CatalogFile, header: str) -> str:
    unquoted = re.sub(r'"[^"]*"', "", header)
    separator = max(SEPARATORS, key=unquoted.count)
    if separator in unquoted:
        return separator
    if len(header.split()) > 1:
        raise CatalogError(f"{file.name}: no comma or tab separates columns in its first line {header[:60]!r}")
    return ","


def _split(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator), [""])
    except csv.Error as error:
        raise ValueError(f"a line cannot be split into columns: {error}") from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
