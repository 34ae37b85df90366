"""Catalogues in FITS tables, read by rows: also gzip-compressed ones, without ever holding the whole table."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from astropy.io import fits
from numpy.typing import NDArray

from galaxray.catalog.files import CatalogFile, describe_failure
from galaxray.catalog.table import Field
from galaxray.errors import CatalogError

__all__ = ["FitsTable"]

BLOCK_BYTES = 8 * 2**20


class FitsTable:
    """A binary or ASCII table in a FITS file.

    Rows are read as bytes and the wanted columns picked from them, because astropy would map or decompress the
    whole table. Units come from TUNIT, descriptors from TUCD; TNULL, TSCAL and TZERO are honoured.

    Parameters
    ----------
    file : CatalogFile
    hdu : int, str or None
        Number or name of the extension; the first table otherwise.

    Raises
    ------
    CatalogError
        If there is no (such) table, or the file is shorter than its header says.
    """

    def __init__(self, file: CatalogFile, hdu: int | str | None = None) -> None:
        self._file = file
        with file.open() as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd but legal headers; damage is found by our own checks
            try:
                with fits.open(stream, memmap=False, lazy_load_hdus=True) as hdus:
                    self._read_header(*_find_table(file.name, hdus, hdu))
            except (fits.VerifyError, LookupError, TypeError) as error:  # astropy, on a header that makes no sense
                raise ValueError(describe_failure(error)) from error

    def _read_header(self, position: int, table: Any) -> None:
        header = table.header
        self.kind = f"FITS, extension {position}" + (f" ({table.name})" if table.name else "")
        self.num_rows: int | None = int(header["NAXIS2"])
        self._row_bytes = int(header["NAXIS1"])
        self._data_offset = int(table.fileinfo()["datLoc"])
        self._columns = table.columns
        self._keywords = dict(header)
        self._is_ascii = isinstance(table, fits.TableHDU)
        self._dtype = _row_dtype(table, self._row_bytes)
        self.fields = tuple(
            Field(column.name, column.unit or None, header.get(f"TUCD{number}"))
            for number, column in enumerate(table.columns, 1)
        )
        promised = self._data_offset + self.num_rows * self._row_bytes
        if not self._file.is_compressed and self._file.size_bytes < promised:
            there = max(0, self._file.size_bytes - self._data_offset) // max(1, self._row_bytes)
            raise CatalogError(f"{self._file.name}: truncated: {there} of {self.num_rows} rows are there")

    def batches(self, columns: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """Read columns, as :meth:`galaxray.catalog.table.Table.batches` says."""
        assert self.num_rows is not None
        rows_per_block = max(1, BLOCK_BYTES // max(1, self._row_bytes))
        names = [self.fields[position].name for position in columns]
        with self._file.open() as stream:
            stream.seek(self._data_offset)
            for first in range(0, self.num_rows, rows_per_block):
                rows = _read_rows(stream, self._dtype, min(rows_per_block, self.num_rows - first))
                arrays = [self._column(rows, position) for position in columns]
                yield pa.RecordBatch.from_arrays(arrays, names=names)
                if len(rows) < min(rows_per_block, self.num_rows - first):
                    raise EOFError(f"truncated: {first + len(rows)} of {self.num_rows} rows are there")

    def _column(self, rows: NDArray[np.void], position: int) -> pa.Array:
        stored = rows[self._dtype.names[position]] if self._dtype.names else rows
        column = self._columns[position]
        if stored.ndim != 1 or stored.dtype.kind not in "Siuf" or column.format.format in ("L", "X"):
            name = f"{self._file.name}: column {self.fields[position].name!r}"
            raise CatalogError(f"{name} (TFORM {column.format}) has no single number or text per row")
        if stored.dtype.kind == "S":
            return _text(stored, is_number=self._is_ascii and column.format.format != "A")
        return _numbers(stored, *(self._keywords.get(f"{key}{position + 1}") for key in ("TZERO", "TSCAL", "TNULL")))


def _find_table(name: str, hdus: fits.HDUList, wanted: int | str | None) -> tuple[int, Any]:
    """Position and HDU of the wanted table, or of the first."""
    if wanted is None:
        for position, hdu in enumerate(hdus):
            if _is_table(hdu):
                return position, hdu
        raise CatalogError(f"{name}: no table in this FITS file: {_contents(hdus)}")
    key = int(wanted) if isinstance(wanted, str) and wanted.isdigit() else wanted
    try:
        hdu = hdus[key]
    except (KeyError, IndexError) as error:
        raise CatalogError(f"{name}: no extension {wanted!r}: {_contents(hdus)}") from error
    if not _is_table(hdu):
        raise CatalogError(f"{name}: extension {wanted!r} is no table: {_contents(hdus)}")
    return hdus.index_of(key), hdu


def _is_table(hdu: Any) -> bool:
    if isinstance(hdu, fits.BinTableHDU) and hdu.header.get("ZTABLE"):
        raise CatalogError(f"{hdu.name}: a table compressed by fpack cannot be read; run funpack on the file")
    return isinstance(hdu, fits.BinTableHDU | fits.TableHDU) and not isinstance(hdu, fits.CompImageHDU)


def _contents(hdus: fits.HDUList) -> str:
    """Say in a line what a FITS file holds."""
    kinds = []
    for position, hdu in enumerate(hdus):
        axes = "x".join(str(length) for length in hdu.shape) if hdu.is_image else ""
        kinds.append(f"{position} {hdu.name} {'table' if _is_table(hdu) else f'image {axes}' if axes else 'empty'}")
    return ", ".join(" ".join(kind.split()) for kind in kinds)


def _row_dtype(table: Any, row_bytes: int) -> np.dtype[np.void]:
    """Lay out a row as it is stored: big-endian, or text for an ASCII table."""
    columns = table.columns
    if isinstance(table, fits.TableHDU):
        formats = [f"S{column.format.width}" for column in columns]
        offsets = [column.start - 1 for column in columns]
    else:
        stored = columns.dtype.newbyteorder(">")
        formats, offsets = map(list, zip(*[stored.fields[name][:2] for name in columns.names], strict=True))
    return np.dtype({"names": columns.names, "formats": formats, "offsets": offsets, "itemsize": row_bytes})


def _read_rows(stream: BinaryIO, dtype: np.dtype[np.void], count: int) -> NDArray[np.void]:
    """Up to ``count`` rows, fewer only where the file ends."""
    block = stream.read(count * dtype.itemsize)
    return np.frombuffer(block, dtype, count=len(block) // dtype.itemsize)


def _text(stored: NDArray[Any], *, is_number: bool) -> pa.Array:
    text = pa.array(np.ascontiguousarray(stored), type=pa.binary())
    if is_number:  # Fortran writes 1.5D+02
        text = pa.array([value.replace(b"D", b"E") for value in text.to_pylist()], type=pa.binary())
    return text


def _numbers(stored: NDArray[Any], zero: Any, scale: Any, null: Any) -> pa.Array:
    """Physical values, the integers among them exact."""
    native = stored.astype(stored.dtype.newbyteorder("="))
    missing = native == null if null is not None and native.dtype.kind in "iu" else None
    if scale in (None, 1) and zero and native.dtype.kind in "iu" and float(zero).is_integer():
        if zero == 2**63:
            return pa.array(native.view(np.uint64) ^ np.uint64(2**63), mask=missing)
        return pa.array(native.astype(np.int64) + int(zero), mask=missing)
    if scale not in (None, 1) or zero:
        native = native * float(scale or 1) + float(zero or 0)
    return pa.array(native, mask=missing)
