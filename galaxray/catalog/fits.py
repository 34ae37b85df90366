"""Catalogues in FITS tables, read by rows: also gzip-compressed ones, without ever holding the whole table.

astropy parses the headers. The rows are read here, because astropy would map the whole file into memory, or
decompress all of it before the first row.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from astropy.io import fits
from numpy.typing import NDArray

from galaxray.catalog.files import CatalogFile, describe_failure
from galaxray.catalog.table import Field
from galaxray.errors import CatalogError

__all__ = ["FitsTable"]

BLOCK_BYTES = 2880
READ_BYTES = 2 * 2**20
MAX_HEADER_BYTES = 4 * 2**20
"""Longest header: one of 999 columns, the most that there may be, with ten cards each has 0.8 MB."""
MAX_ROW_BYTES = 64 * 2**20
MAX_AXES = 999
MAX_EXTENSIONS = 10_000
_SCALARS = {"B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
_ELEMENT_BYTES = dict(zip("XLBAIJEKDCPMQ", (1 / 8, 1, 1, 1, 2, 4, 4, 8, 8, 8, 8, 16, 16), strict=True))
_END = re.compile(rb"^(?:.{80})*END {77}", re.DOTALL)


@dataclass(frozen=True)
class _Column:
    """How a column is stored; ``format`` is None where it is not one number or text per row."""

    form: str
    format: str | None
    offset: int
    scale: float
    zero: float
    null: int | None


class FitsTable:
    """A binary or ASCII table in a FITS file.

    Units come from TUNIT, descriptors from TUCD; TNULL, TSCAL and TZERO are honoured.

    Parameters
    ----------
    file : CatalogFile
    extension : int, str or None
        Number or name of the extension; the first table otherwise.

    Raises
    ------
    CatalogError
        If there is no (such) table, or the file is shorter than its header says.
    """

    def __init__(self, file: CatalogFile, extension: int | str | None = None) -> None:
        self._file = file
        with file.open() as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd but legible headers; damage is found by our own checks
            try:
                position, header, self._data_offset = _find_table(file.name, stream, extension)
                self._columns = _columns(header)
                self._row_bytes = int(header["NAXIS1"])
                self.num_rows: int | None = int(header["NAXIS2"])
                numbers = range(1, len(self._columns) + 1)
                self.fields = tuple(
                    Field(
                        _text(header, f"TTYPE{n}") or f"col{n}", _text(header, f"TUNIT{n}"), _text(header, f"TUCD{n}")
                    )
                    for n in numbers
                )
                title = _text(header, "EXTNAME")
            except (fits.VerifyError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
                raise ValueError(describe_failure(error)) from error
        self.kind = f"FITS, extension {position}" + (f" ({title})" if title else "")
        if self._row_bytes > MAX_ROW_BYTES or self.num_rows < 0:
            raise CatalogError(f"{file.name}: {self.num_rows} rows of {self._row_bytes} bytes are no catalogue")
        promised = self._data_offset + self.num_rows * self._row_bytes
        if not file.is_compressed and file.size_bytes < promised:
            there = max(0, file.size_bytes - self._data_offset) // self._row_bytes
            raise CatalogError(f"{file.name}: truncated: {there} of {self.num_rows} rows are there")

    def batches(self, columns: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """Read columns, as :meth:`galaxray.catalog.table.Table.batches` says."""
        assert self.num_rows is not None
        dtype = self._row_dtype(columns)
        rows_at_once = max(1, READ_BYTES // self._row_bytes)
        with self._file.open() as stream:
            stream.seek(self._data_offset)
            for first in range(0, self.num_rows, rows_at_once):
                expected = min(rows_at_once, self.num_rows - first)
                block = stream.read(expected * self._row_bytes)
                rows = np.frombuffer(block, dtype, count=len(block) // self._row_bytes)
                arrays = [_to_arrow(rows[str(column)], self._columns[column]) for column in columns]
                yield pa.RecordBatch.from_arrays(arrays, names=[self.fields[column].name for column in columns])
                if len(rows) < expected:
                    raise EOFError(f"truncated: {first + len(rows)} of {self.num_rows} rows are there")

    def _row_dtype(self, columns: Sequence[int]) -> np.dtype[np.void]:
        """Lay out the wanted columns of a row as they are stored."""
        stored = [self._columns[column] for column in columns]
        for column, layout in zip(columns, stored, strict=True):
            if layout.format is None:
                name = f"{self._file.name}: column {self.fields[column].name!r}"
                raise CatalogError(f"{name} (TFORM {layout.form}) has no single number or text per row")
        return np.dtype(
            {
                "names": [str(column) for column in columns],
                "formats": [column.format for column in stored],
                "offsets": [column.offset for column in stored],
                "itemsize": self._row_bytes,
            }
        )


def _find_table(name: str, stream: BinaryIO, wanted: int | str | None) -> tuple[int, fits.Header, int]:
    """Position, header and offset of the data of the wanted table, or of the first."""
    wanted = int(wanted) if isinstance(wanted, str) and wanted.isdigit() else wanted
    contents = []
    for position, (header, data_offset) in enumerate(_headers(stream)):
        extension = str(header.get("EXTNAME", "PRIMARY" if position == 0 else "")).strip()
        is_wanted = position == wanted or (isinstance(wanted, str) and extension.upper() == wanted.strip().upper())
        contents.append(" ".join([str(position), extension, _content(header)]).replace("  ", " "))
        if not (is_wanted or wanted is None):
            continue
        if _content(header) == "table":
            if header.get("ZTABLE"):
                raise CatalogError(f"{name}: a table that is compressed inside FITS; run funpack on the file")
            return position, header, data_offset
        if is_wanted:
            raise CatalogError(f"{name}: extension {wanted!r} is no table: {', '.join(contents)}")
    what = "no table in this FITS file" if wanted is None else f"no extension {wanted!r}"
    raise CatalogError(f"{name}: {what}: {', '.join(contents)}")


def _headers(stream: BinaryIO) -> Iterator[tuple[fits.Header, int]]:
    """Headers of a FITS file, each with the offset of its data."""
    offset = 0
    for _ in range(MAX_EXTENSIONS):
        content = _read_header(stream)
        if not content:
            return
        header = fits.Header.fromstring(content)
        offset += len(content)
        num_axes = int(header["NAXIS"])
        if not 0 <= num_axes <= MAX_AXES:
            raise ValueError(f"an extension of {num_axes} axes")
        axes = [int(header[f"NAXIS{n}"]) for n in range(1, num_axes + 1)]
        groups, heap = int(header.get("GCOUNT", 1)), int(header.get("PCOUNT", 0))
        if min([*axes, groups, heap]) < 0:  # would lead back, and round in circles
            raise ValueError("an extension of negative length")
        yield header, offset
        elements = groups * (heap + math.prod(axes)) if axes else 0
        offset += math.ceil(elements * abs(int(header["BITPIX"])) / 8 / BLOCK_BYTES) * BLOCK_BYTES
        stream.seek(offset)


def _read_header(stream: BinaryIO) -> bytes:
    """Blocks of the next header; nothing at the end of the file, or where junk follows the last extension."""
    blocks = [b""]
    while not _END.search(blocks[-1]):
        block = stream.read(BLOCK_BYTES)
        if len(blocks) == 1 and not block.startswith((b"SIMPLE  =", b"XTENSION=")):
            return b""
        if len(block) < BLOCK_BYTES:
            raise EOFError("truncated in a header")
        blocks.append(block)
        if len(blocks) * BLOCK_BYTES > MAX_HEADER_BYTES:
            raise ValueError(f"a header of more than {MAX_HEADER_BYTES} bytes")
    return b"".join(blocks)


def _content(header: fits.Header) -> str:
    """Say what an extension holds."""
    if header.get("XTENSION", "").strip() in ("BINTABLE", "TABLE") and not header.get("ZIMAGE"):
        return "table"
    letter = "Z" if header.get("ZIMAGE") else ""
    num_axes = min(int(header.get(f"{letter}NAXIS", 0)), MAX_AXES)
    axes = [str(header.get(f"{letter}NAXIS{n}")) for n in range(num_axes, 0, -1)]
    return f"image {'x'.join(axes)}" if axes else "empty"


def _text(header: fits.Header, key: str) -> str | None:
    value = header.get(key)
    return value.strip() if isinstance(value, str) else None


def _columns(header: fits.Header) -> list[_Column]:
    """Lay out the columns of a table (FITS 4.0, sections 7.2 and 7.3)."""
    is_ascii = header["XTENSION"].strip() == "TABLE"
    columns: list[_Column] = []
    offset = 0
    for n in range(1, int(header["TFIELDS"]) + 1):
        form = str(header[f"TFORM{n}"]).strip().upper()
        scale, zero, null = header.get(f"TSCAL{n}", 1.0), header.get(f"TZERO{n}", 0.0), header.get(f"TNULL{n}")
        null = null if isinstance(null, int) else None
        if not (math.isfinite(scale) and abs(zero) <= 2**63):
            raise ValueError(f"the values of column {n} are scaled by {scale!r} and {zero!r}")
        if is_ascii:
            start = int(header[f"TBCOL{n}"]) - 1
            is_scaled = scale != 1 or zero != 0
            columns.append(_Column(form, None if is_scaled else f"S{_ascii_width(form)}", start, 1.0, 0.0, None))
            continue
        match = re.match(r"(\d*)([LXBIJKAEDCMPQ])", form)
        if not match:
            raise ValueError(f"TFORM{n} = {form!r} is no format of a column")
        repeat, code = int(match[1] or 1), match[2]
        is_array = "," in str(header.get(f"TDIM{n}", ""))
        stored = f"S{repeat}" if code == "A" and repeat else _SCALARS.get(code) if repeat == 1 else None
        columns.append(_Column(form, None if is_array else stored, offset, scale, zero, null))
        offset += math.ceil(repeat * _ELEMENT_BYTES[code])
    if header["NAXIS1"] <= 0 or (not is_ascii and offset != header["NAXIS1"]):
        raise ValueError(f"its columns take {offset} bytes, its rows {header['NAXIS1']}")
    return columns


def _ascii_width(form: str) -> int:
    match = re.match(r"[AIFED](\d+)", form)
    if not match:
        raise ValueError(f"{form!r} is no format of a column in an ASCII table")
    return int(match[1])


def _to_arrow(stored: NDArray[Any], column: _Column) -> pa.Array:
    """Physical values: text, exact integers, or floats."""
    if stored.dtype.kind == "S":
        text = pa.array(np.ascontiguousarray(stored), type=pa.binary())
        is_fortran = column.form[0] in "FED"  # an ASCII table, where a number may be written 1.5D+02
        return pc.replace_substring(text.cast(pa.string()), "D", "E") if is_fortran else text
    values = stored.astype(stored.dtype.newbyteorder("="))
    is_integer = values.dtype.kind in "iu"
    missing = values == column.null if column.null is not None and is_integer else None
    if column.scale != 1 or (column.zero != 0 and not is_integer) or column.zero != int(column.zero):
        values = values * float(column.scale) + float(column.zero)
    elif column.zero == 2**63:  # the convention for unsigned integers; in int64 the sum would overflow
        values = values.view(np.uint64) ^ np.uint64(2**63)
    elif column.zero != 0:
        values = values.astype(np.int64) + int(column.zero)
    return pa.array(values, mask=missing)
