"""Catalogues in text: CSV, TSV (or another separator) and ECSV, streamed."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from galaxray.catalog.files import CatalogFile
from galaxray.catalog.table import Field, read_astropy_header
from galaxray.errors import CatalogError

__all__ = ["TextTable"]

HEADER_BYTES = 2**20
"""The header, the comments before it and the first row stand within so many bytes."""
BLOCK_BYTES = 4 * 2**20
SUBSTITUTE = "\x1a"
COMMENT = "\x02"
"""Stands for the # that begins a line, so that a comment is not mistaken for a row that begins with a quoted #."""
WHITESPACE = " \t\x1a"  # DOS ends a text with Ctrl-Z
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
        read = dict.fromkeys([*wanted, names[0]])  # the first column tells comments
        ragged: list[Any] = []

        def on_ragged_row(row: Any) -> str:
            is_comment = row.text.lstrip().startswith(("#", COMMENT)) and "\n" not in row.text.strip()
            if is_comment or not row.text.strip(WHITESPACE):
                return "skip"
            ragged.append(row)
            return "error"

        with self._file.open() as stream:
            stream.seek(self._data_offset)
            text = _Utf8Stream(stream)
            try:
                with pyarrow.csv.open_csv(
                    text,
                    read_options=pyarrow.csv.ReadOptions(column_names=names, block_size=BLOCK_BYTES),
                    parse_options=pyarrow.csv.ParseOptions(
                        delimiter=self._separator, newlines_in_values=True, invalid_row_handler=on_ragged_row
                    ),
                    convert_options=pyarrow.csv.ConvertOptions(
                        include_columns=list(read),
                        column_types=dict.fromkeys(read, pa.string()),
                        strings_can_be_null=False,
                    ),
                ) as reader:
                    for batch in reader:
                        if text.has_comments:
                            batch = _without_comments(batch, names[0])
                        batch = batch.select(wanted)
                        if text.has_stray_bytes:
                            self._require_utf8(batch, columns)
                        yield batch
            except pa.ArrowInvalid as error:
                if not ragged:
                    raise
                found, expected, row = ragged[0].actual_columns, ragged[0].expected_columns, ragged[0].text[:60]
                raise ValueError(f"a row has {found} columns, the header has {expected}: {row!r}") from error

    def _require_utf8(self, batch: pa.RecordBatch, columns: Sequence[int]) -> None:
        for position, values in zip(columns, batch.columns, strict=True):
            if pc.any(pc.match_substring(values, SUBSTITUTE)).as_py():
                name = self.fields[position].name
                raise ValueError(f"column {name!r} is no UTF-8 text; convert the file (iconv -f latin1 -t utf-8)")


class _Utf8Stream(io.RawIOBase):
    """A stream of text with control characters for bytes that are no UTF-8, and for each # that begins a line.

    pyarrow would refuse such bytes where they do no harm (in a comment between rows) and could not show the row. It
    knows no comments, but alone knows which lines begin within quotes.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="galaxray-substitute")
        self.has_stray_bytes = False
        self.has_comments = False
        self._at_line_start = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        room = len(buffer) - 4  # what is left over from the last time takes up to three bytes
        while chunk := self._stream.read(room):
            content = self._decoder.decode(chunk).encode()
            if content:
                break
        else:
            content = self._decoder.decode(b"", final=True).encode()
        self.has_stray_bytes |= SUBSTITUTE.encode() in content
        if b"#" in content:
            content = self._mark_comments(content)
        self._at_line_start = content.endswith((b"\n", b"\r"))
        buffer[: len(content)] = content
        return len(content)

    def _mark_comments(self, content: bytes) -> bytes:
        marked = content
        if self._at_line_start and content.startswith(b"#"):
            marked = COMMENT.encode() + content[1:]
        for line_end in (b"\n", b"\r"):
            marked = marked.replace(line_end + b"#", line_end + COMMENT.encode())
        self.has_comments |= marked != content
        return marked


def _without_comments(batch: pa.RecordBatch, first: str) -> pa.RecordBatch:
    """Rows that are no comments, with the # back in its place in values of several lines."""
    batch = batch.filter(pc.invert(pc.starts_with(batch[first], COMMENT)))
    values = [pc.replace_substring(column, COMMENT, "#") for column in batch.columns]
    return pa.RecordBatch.from_arrays(values, names=batch.schema.names)


def _substitute(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return SUBSTITUTE * (error.end - error.start), error.end


codecs.register_error("galaxray-substitute", _substitute)


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
