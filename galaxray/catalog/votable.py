"""Catalogues in VOTable: TABLEDATA is streamed, BINARY, BINARY2 and FITS are read whole."""

from __future__ import annotations

import itertools
import logging
import math
import operator
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from astropy.io import votable
from astropy.io.votable.exceptions import VOWarning
from astropy.utils.xml.iterparser import get_xml_iterator

from galaxray.catalog.files import CatalogFile
from galaxray.catalog.table import Field
from galaxray.errors import CatalogError

__all__ = ["VOTable"]

logger = logging.getLogger(__name__)

BATCH_ROWS = 8192
MAX_WHOLE_BYTES = 2**30
"""Largest document whose table is read whole: in memory it is about as large again."""
MAX_PIECE_BYTES = 16 * 2**20
"""Most that is read of a header, or between two rows."""
GUESSED_ROWS = 256
"""Rows that astropy makes room for at first, where the document does not say how many there are."""

_Event = tuple[bool, str, Any, tuple[int, int]]
"""Whether an element starts (or ends), its tag, its attributes (or text), line and column."""


class VOTable:
    """The first table of a VOTable document.

    Raises
    ------
    CatalogError
        If the document holds no table or a service's error message, is no XML, or is too large to be read whole.
    """

    kind = "VOTable"
    num_rows: int | None = None

    def __init__(self, file: CatalogFile) -> None:
        self._file = file
        with file.open() as stream, get_xml_iterator(_Allowance(stream, MAX_PIECE_BYTES).read) as events:
            self._read_header(events)
        if self._encoding != "TABLEDATA" and file.size_bytes > MAX_WHOLE_BYTES:
            raise CatalogError(
                f"{file.name}: a VOTable in {self._encoding} is read whole, at most {MAX_WHOLE_BYTES} bytes; "
                "convert it to Parquet or FITS"
            )

    def _read_header(self, events: Iterator[_Event]) -> None:
        attributes: list[dict[str, str]] = []
        complaint = ""
        self._number = -1
        for is_start, tag, data, _ in events:
            match tag:
                case "TABLE" if is_start:
                    self._number += 1
                    attributes = []
                case "FIELD" if is_start:
                    attributes.append(dict(data))
                case "VALUES" if is_start and attributes and "null" in data:
                    attributes[-1].setdefault("null_text", data["null"])
                case "INFO" | "PARAM" if is_start:
                    complaint = complaint or _complaint(data)
                case "INFO" if complaint == "ERROR" and data:
                    complaint = data
                case "DATA" if is_start and attributes:
                    break
        else:
            reason = f"; the service that wrote it says: {complaint.strip()}" if complaint else ""
            found = f"a table with {len(attributes)} columns but no rows" if attributes else "no table in this VOTable"
            raise CatalogError(f"{self._file.name}: {found}{reason}")
        self._encoding = next((tag for is_start, tag, _, _ in events if is_start), "")
        if not self._encoding:
            raise ValueError("its DATA element is empty")
        self._nulls = [field.get("null_text") for field in attributes]
        self.fields = tuple(
            Field(field.get("name") or field.get("ID", ""), field.get("unit"), field.get("ucd")) for field in attributes
        )

    def batches(self, columns: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """Read columns, as :meth:`galaxray.catalog.table.Table.batches` says."""
        with self._file.open() as stream:
            yield from (self._stream if self._encoding == "TABLEDATA" else self._read_whole)(stream, columns)

    def _stream(self, stream: BinaryIO, columns: Sequence[int]) -> Iterator[pa.RecordBatch]:
        allowance = _Allowance(stream, MAX_PIECE_BYTES)
        with get_xml_iterator(allowance.read) as events:
            self._skip_to_data(events, allowance)
            rows = _rows(events, len(self.fields), columns, allowance)
            while batch := list(itertools.islice(rows, BATCH_ROWS)):
                cells = zip(*batch, strict=True)
                arrays = [
                    pa.array([None if cell == self._nulls[column] else cell for cell in cells_of], pa.string())
                    for column, cells_of in zip(columns, cells, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(arrays, names=[self.fields[column].name for column in columns])
            for is_start, tag, data, _ in events:  # to the end of the document: it may say that rows are missing
                allowance.renew()
                if is_start and tag == "INFO":
                    self._heed(data)

    def _skip_to_data(self, events: Iterator[_Event], allowance: _Allowance) -> None:
        number = -1
        for is_start, tag, _, _ in events:
            allowance.renew()
            number += is_start and tag == "TABLE"
            if number == self._number and is_start and tag == "TABLEDATA":
                return

    def _read_whole(self, stream: BinaryIO, columns: Sequence[int]) -> Iterator[pa.RecordBatch]:
        with self._file.open() as document, get_xml_iterator(_Allowance(document, MAX_WHOLE_BYTES).read) as events:
            _require_modest(events)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # breaches of the standard that do not touch the values
            try:
                document = votable.parse(stream, table_number=self._number, verify="ignore")
            except VOWarning as error:  # some breaches are raised nevertheless
                raise ValueError(str(error)) from error
        table = next(iter(document.iter_tables())).array
        for resource in document.resources:
            for info in resource.infos:
                self._heed({"name": info.name, "value": info.value})
        names = table.dtype.names
        for first in range(0, len(table), BATCH_ROWS):
            piece = table[first : first + BATCH_ROWS]
            arrays = [_to_arrow(piece[names[column]]) for column in columns]
            yield pa.RecordBatch.from_arrays(arrays, names=[self.fields[column].name for column in columns])

    def _heed(self, info: Mapping[str, str]) -> None:
        """Pass on what the service says about the completeness of its answer."""
        if complaint := _complaint(info):
            raise ValueError(f"the service that wrote it reported an error: {complaint}")
        if info.get("name") == "QUERY_STATUS" and info.get("value") == "OVERFLOW":
            logger.warning("%s: the service that wrote it cut the table off at its row limit", self._file.name)


class _Allowance:
    """A stream that may be read so far and no further, unless the allowance is renewed.

    The parser gathers what stands between two tags: of a small compressed file that may be more than the memory holds.
    """

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = self._left = size

    def renew(self) -> None:
        self._left = self._size

    def read(self, size: int) -> bytes:
        if self._left <= 0:
            raise ValueError(f"more than {self._size} bytes without an end to it")
        content = self._stream.read(size)
        self._left -= len(content)
        return content


def _require_modest(events: Iterator[_Event]) -> None:
    """Refuse a document that would make astropy open other files, ask the network, or reserve more than the memory."""
    width = 0
    num_rows = GUESSED_ROWS
    for is_start, tag, data, _ in events:
        if not is_start:
            continue
        match tag:
            case "STREAM" if "href" in data:
                raise ValueError(f"its rows are in another file, {data['href']!r}: read that one, or ask for TABLEDATA")
            case "TABLE":
                width, num_rows = 0, max(GUESSED_ROWS, int(data.get("nrows", 0)))
            case "FIELD":
                width += math.prod(int(length) for length in re.findall(r"\d+", data.get("arraysize", "1")))
        if width * num_rows > MAX_WHOLE_BYTES:
            raise ValueError(f"{num_rows} rows of {width} values are too many to be read whole")


def _rows(
    events: Iterator[_Event], num_fields: int, columns: Sequence[int], allowance: _Allowance
) -> Iterator[tuple[str, ...]]:
    """Pick the wanted cells of each row, up to the end of the table."""
    cells: list[str] = []
    pick = operator.itemgetter(*columns) if len(columns) > 1 else lambda cells: (cells[columns[0]],)
    for is_start, tag, data, _ in events:
        if is_start:
            continue
        if tag == "TD":
            cells.append(data)
        elif tag == "TR":
            if len(cells) != num_fields:
                raise ValueError(f"a row has {len(cells)} cells, the table has {num_fields} fields")
            yield pick(cells)
            cells = []
            allowance.renew()
        elif tag == "TABLEDATA":
            return


def _complaint(info: Mapping[str, str]) -> str:
    """Find the error that an INFO or PARAM element reports, if any (DALI 1.1 section 4.4; Cone Search 1.03)."""
    name, value = info.get("name", ""), info.get("value", "")
    if name == "QUERY_STATUS":
        return "ERROR" if value == "ERROR" else ""
    return value if name.lower() == "error" else ""


def _to_arrow(column: np.ma.MaskedArray[Any, Any]) -> pa.Array:
    values, mask = np.ma.getdata(column), np.ma.getmaskarray(column)
    if values.dtype.kind == "S":
        values = values.astype(object)
    return pa.array(values, mask=mask)
