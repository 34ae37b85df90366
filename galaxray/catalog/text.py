"""Catalogues in text: CSV, TSV (or another separator) and ECSV, streamed."""

from __future__ import annotations

import codecs
import csv
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv
import yaml
from astropy.table.meta import get_header_from_yaml

from galaxray.catalog.files import CatalogFile, describe_failure
from galaxray.catalog.table import Field
from galaxray.errors import CatalogError

__all__ = ["TextTable"]

HEADER_BYTES = 2**20
"""The header, with all comments before it, stands within so many bytes."""
BLOCK_BYTES = 4 * 2**20
ECSV_MARK = b"# %ECSV"
SEPARATORS = {",": "CSV", "\t": "TSV", ";": "CSV with semicolons", "|": "CSV with bars"}


@dataclass(frozen=True)
class _Layout:
    """Where the data begin, and how they are written."""

    kind: str
    fields: tuple[Field, ...]
    separator: str
    data_offset: int


class TextTable:
    """A table in a text file.

    Comment lines (``#``) before the header are skipped, and so are those between rows; the header may itself be the
    last of the comments. Every column is read as text.

    Raises
    ------
    CatalogError
        If the file has no header, no rows, or is no UTF-8 text.
    """

    num_rows: int | None = None

    def __init__(self, file: CatalogFile, *, separator: str | None = None) -> None:
        self._file = file
        with file.open() as stream:
            start = stream.read(HEADER_BYTES)
        layout = _ecsv_layout(file, start) if start.startswith(ECSV_MARK) else _csv_layout(file, start, separator)
        self.kind = layout.kind
        self.fields = layout.fields
        self._layout = layout

    def batches(self, columns: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """Read columns, as :meth:`galaxray.catalog.table.Table.batches` says."""
        names = [f"f{position}" for position in range(len(self.fields))]  # names in the file may repeat
        wanted = [names[position] for position in columns]
        bad_rows: list[Any] = []

        def on_bad_row(row: Any) -> str:
            if row.text.lstrip().startswith("#") or not row.text.strip():
                return "skip"
            bad_rows.append(row)
            return "error"

        with self._file.open() as stream:
            stream.seek(self._layout.data_offset)
            try:
                with pyarrow.csv.open_csv(
                    stream,
                    read_options=pyarrow.csv.ReadOptions(column_names=names, block_size=BLOCK_BYTES),
                    parse_options=pyarrow.csv.ParseOptions(
                        delimiter=self._layout.separator, newlines_in_values=True, invalid_row_handler=on_bad_row
                    ),
                    convert_options=pyarrow.csv.ConvertOptions(
                        include_columns=wanted,
                        column_types=dict.fromkeys(wanted, pa.string()),
                        strings_can_be_null=False,
                    ),
                ) as reader:
                    yield from reader
            except pa.ArrowInvalid as error:
                raise ValueError(self._explain(error, bad_rows, columns)) from error

    def _explain(self, error: pa.ArrowInvalid, bad_rows: list[Any], columns: Sequence[int]) -> str:
        if bad_rows:
            row = bad_rows[0]
            return f"a row has {row.actual_columns} fields, the header has {row.expected_columns}: {row.text[:60]!r}"
        if "UTF8" in str(error):
            names = ", ".join(self.fields[position].name for position in columns)
            return f"one of the columns {names} is no UTF-8 text; convert the file (iconv -f latin1 -t utf-8)"
        return str(error)


def _csv_layout(file: CatalogFile, start: bytes, separator: str | None) -> _Layout:
    lines = list(_lines(start))
    content = [line for line in lines if line.text.strip() and not line.is_comment]
    if not content:
        raise CatalogError(f"{file.name}: no table in it, only comments or blank lines")
    header = content[0]
    separator = separator or _separator(file, header.text)
    names = _split(header.text, separator)
    comments = [line for line in lines if line.is_comment and line.end <= header.start and line.text.strip("# \t")]
    rows = content[1:]
    if comments and any(_is_number(name) for name in names):
        commented = _split(comments[-1].text.lstrip("# "), separator)
        if len(commented) == len(names):
            names, rows = commented, content
    if not rows and len(start) < HEADER_BYTES:
        raise CatalogError(f"{file.name}: a header but no rows")
    if rows and rows[0].text.count('"') % 2 == 0 and len(_split(rows[0].text, separator)) != len(names):
        raise CatalogError(
            f"{file.name}: no table: line {header.number}, taken for the header, has {len(names)} columns and "
            f"line {rows[0].number} {len(_split(rows[0].text, separator))}; begin the lines of a preamble with #"
        )
    fields = tuple(Field(name.strip()) for name in names)
    return _Layout(SEPARATORS[separator], fields, separator, header.end if rows != content else header.start)


def _ecsv_layout(file: CatalogFile, start: bytes) -> _Layout:
    lines = list(_lines(start))
    comments = list(itertools.takewhile(lambda line: line.is_comment, lines))
    header = next((line for line in lines[len(comments) :] if line.text.strip()), None)
    try:
        meta = get_header_from_yaml([line.text.removeprefix("#").removeprefix(" ") for line in comments[1:]])
        separator = meta.get("delimiter", " ")
        units = {column["name"]: column.get("unit") for column in meta["datatype"]}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise CatalogError(f"{file.name}: the ECSV header cannot be read: {describe_failure(error)}") from error
    if header is None or (header is lines[-1] and len(start) < HEADER_BYTES):
        raise CatalogError(f"{file.name}: a header but no rows")
    fields = tuple(
        Field(name, None if units.get(name) is None else str(units[name])) for name in _split(header.text, separator)
    )
    return _Layout("ECSV", fields, separator, header.end)


@dataclass(frozen=True)
class _Line:
    number: int
    text: str
    start: int
    end: int

    @property
    def is_comment(self) -> bool:
        return self.text.lstrip().startswith("#")


def _lines(start: bytes) -> Iterator[_Line]:
    """Complete lines at the beginning of a file, with the byte offsets where they start and end."""
    offset = len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0
    for number, match in enumerate(re.finditer(rb"([^\r\n]*)(\r\n|\n|\r|\Z)", start[offset:]), 1):
        if match.end() == match.start() or (not match[2] and len(start) == HEADER_BYTES):
            return
        # Only the names of columns matter here, and they are compared in ASCII.
        text = match[1].decode("utf-8", errors="replace")
        yield _Line(number, text, offset + match.start(), offset + match.end())


def _separator(file: CatalogFile, header: str) -> str:
    unquoted = re.sub(r'"[^"]*"', "", header)
    separator = max(SEPARATORS, key=unquoted.count)
    if separator not in unquoted:
        if len(header.split()) > 1:
            raise CatalogError(f"{file.name}: no comma or tab separates columns in its first line {header[:60]!r}")
        return ","
    return separator


def _split(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator), [""])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
