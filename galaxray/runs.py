"""A run: its folder, its work units, and what is left to do.

The catalogue is cut into *work units* of consecutive rows when the run is planned, and each unit becomes exactly one
file, ``annotations/unit-00000042.parquet``, written whole or not at all. That is the whole mechanism behind "exactly
once": a unit is done if and only if its file is there, doing it again leaves that file as it is, and no other record
has to agree with the files.

::

    OUTPUT/run.json                        what the run is; written last of the plan, so it means "planned"
    OUTPUT/catalog/part-00000.parquet      the checked catalogue, one row group per unit
    OUTPUT/annotations/unit-00000000.parquet
    OUTPUT/thumbnails/unit-00000000.parquet   pictures of a small sample, for the report
    OUTPUT/summary.json, OUTPUT/report.html
    OUTPUT/lock.json                       while a program works on the run (galaxray.lock)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from galaxray.batches import Batch, from_table
from galaxray.errors import RunError, RunMismatchError
from galaxray.schema import EXTRAS, TRANSIENT_STATUSES
from galaxray.storage import Folder, open_folder
from galaxray.units import UNIT_NAME, RecordReader, UnitRecord, unit_name

__all__ = [
    "UNITS_PER_PART",
    "Committed",
    "Listing",
    "Run",
    "UnitRecord",
    "open_run",
    "part_name",
    "run_of",
    "unit_name",
]

UNITS_PER_PART = 256
"""Units in one file of the checked catalogue: few enough that its footer stays small."""

_IMAGES = frozenset({"image", "jpeg"})
"""Columns of image files."""

ERROR_KINDS_PER_UNIT = 20
"""Distinct error texts kept for the histogram, so that a million different ones cannot fill the memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Listing:
    """The files of finished units at one moment; arrays of shape (num_units,)."""

    size: np.ndarray
    """Bytes, int64; -1 where there is no file."""
    modified: np.ndarray
    """When it was written, by the clock of the disk or store (Unix time, float64)."""

    @property
    def units(self) -> list[int]:
        """Units whose file is there, sorted."""
        units: list[int] = np.flatnonzero(self.size >= 0).tolist()
        return units

    @property
    def missing(self) -> list[int]:
        """Units whose file is not there, sorted."""
        units: list[int] = np.flatnonzero(self.size < 0).tolist()
        return units


@dataclass(frozen=True, kw_only=True)
class Committed:
    """A unit that was written."""

    record: UnitRecord
    """What its file says."""
    size: int
    """Bytes of that file."""
    before: UnitRecord | None
    """What the file said that it replaces."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A planned run. Cheap to pickle: workers open the folder themselves.

    Attributes
    ----------
    output : str
        Address of the run folder.
    run_id : str
    num_rows, num_units, rows_per_unit : int
    record : dict
        The content of ``run.json``.
    """

    output: str
    run_id: str
    num_rows: int
    num_units: int
    rows_per_unit: int
    record: dict[str, Any]

    @cached_property
    def folder(self) -> Folder:
        """The run folder, opened once in each process: a client of S3 takes an eighth of a second of CPU to make."""
        return open_folder(self.output)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "folder"}

    def listing(self, *, strict: bool = True) -> Listing:
        """List the files of finished units.

        Raises
        ------
        RunError
            If there are other files and ``strict``: who reads the table would take them for a part of it.
        """
        size, modified = np.full(self.num_units, -1, np.int64), np.full(self.num_units, np.nan)
        for entry in self.folder.entries("annotations"):
            match = UNIT_NAME.fullmatch(entry.name)
            if match and int(match[1]) < self.num_units:
                size[int(match[1])], modified[int(match[1])] = entry.size, entry.modified
            elif strict and not entry.name.startswith((".", "_")):  # readers of Parquet folders pass over these
                raise RunError(
                    f"{self.output}/annotations/{entry.name} is no file of this run: remove it and run again"
                )
        return Listing(size=size, modified=modified)

    def done(self) -> list[int]:
        """Units whose file is there, sorted; RunError as from :meth:`listing`."""
        return self.listing().units

    def pending(self) -> list[int]:
        """Units still to do, sorted."""
        return self.listing().missing

    def rows_in(self, units: Sequence[int]) -> int:
        """Rows that the catalogue has in these units."""
        last = self.num_units - 1
        short = self.num_units * self.rows_per_unit - self.num_rows if last in units else 0
        return len(units) * self.rows_per_unit - short

    def records(self) -> Iterator[UnitRecord]:
        """What is known of each finished unit, from the footers alone."""
        read = RecordReader(self.folder, self.run_id)
        with ThreadPoolExecutor(16) as threads:  # a footer is one short read: latency, not bandwidth
            yield from threads.map(read, self.done())

    def retryable(self) -> list[int]:
        """Finished units with rows that another try may mend."""
        return [record.unit for record in self.records() if record.transient]

    def read_unit(self, unit: int, *, retry: bool = False) -> Batch:
        """Rows of a unit as the catalogue gives them; with ``retry`` only those whose status is transient."""
        folder = self.folder
        batch = from_table(self._read_catalog(unit, along=False))
        batch["attempts"] = np.zeros(len(batch["row_index"]), dtype=np.int16)
        if retry:
            with folder.open(unit_name(unit)) as file:
                before = from_table(pq.read_table(file, columns=["row_index", "status", "attempts"]))
            again = np.isin(before["status"].astype(str), sorted(TRANSIENT_STATUSES))
            batch["attempts"] = before["attempts"]
            batch = {name: values[again] for name, values in batch.items()}
        return batch

    def read_extras(self, unit: int) -> pa.Table:
        """Further columns of the catalogue that the run was planned with, for the rows of a unit."""
        rows = self._read_catalog(unit, along=True).combine_chunks()
        return pa.Table.from_batches(map(pa.RecordBatch.from_struct_array, rows[EXTRAS].chunks))

    def read_finished(self, unit: int, columns: Sequence[str]) -> pa.Table:
        """Columns of a finished unit."""
        with self.folder.open(unit_name(unit)) as file:
            return pq.read_table(file, columns=list(columns))

    def _read_catalog(self, unit: int, *, along: bool) -> pa.Table:
        """Rows of a unit in the checked catalogue: what is read along, or all the rest."""
        part, group = divmod(unit, UNITS_PER_PART)
        with self.folder.open(part_name(part)) as stream:
            file = pq.ParquetFile(stream)
            names = [name for name in file.schema_arrow.names if (name == EXTRAS) is along]
            return file.read_row_group(group, columns=names)

    def commit(self, unit: int, table: pa.Table, *, retry: bool = False) -> Committed:
        """Write a finished unit, unless it is there; with ``retry`` its rows replace those that the file has."""
        folder = self.folder
        before = None
        if not retry and folder.exists(unit_name(unit)):
            # By a worker that outlived its program, or by this one, and its node was lost with the answer: what a
            # reader may have seen stays.
            there = RecordReader(folder, self.run_id)(unit)
            return Committed(record=there, size=len(folder.read(unit_name(unit))), before=None)
        if retry:
            before = RecordReader(folder, self.run_id)(unit)
            with folder.open(unit_name(unit)) as file:
                table = _replace_rows(pq.read_table(file), table)
        expected = min(self.rows_per_unit, self.num_rows - unit * self.rows_per_unit)
        if table.num_rows != expected:
            raise RunError(f"unit {unit} has {table.num_rows} rows where the catalogue has {expected}")
        record = UnitRecord(
            unit=unit,
            rows=table.num_rows,
            by_status=dict(Counter(table["status"].to_pylist())),
            errors=dict(Counter(text for text in table["error"].to_pylist() if text).most_common(ERROR_KINDS_PER_UNIT)),
        )
        table = table.replace_schema_metadata({"galaxray": json.dumps(asdict(record)), "run_id": self.run_id})
        content = _parquet(table)
        folder.write(unit_name(unit), content)
        return Committed(record=record, size=len(content), before=before)

    def commit_thumbnails(self, unit: int, table: pa.Table) -> None:
        """Write the pictures of a unit's sample (columns ``row_index``, ``jpeg``)."""
        self.folder.write(f"thumbnails/unit-{unit:08d}.parquet", _parquet(table))


def open_run(output: str) -> Run | None:
    """The run that is planned in a folder, or None."""
    folder = open_folder(output)
    if not folder.exists("run.json"):
        return None
    try:
        return run_of(folder.root, json.loads(folder.read("run.json")))
    except (ValueError, KeyError, TypeError) as error:
        raise RunMismatchError(
            f"{output}/run.json was not written by galaxray ({error!r}): use another --output"
        ) from error


def run_of(output: str, record: dict[str, Any]) -> Run:
    """The run that a record (the content of ``run.json``) tells of; KeyError or TypeError if it is none."""
    return Run(
        output=output,
        run_id=record["run_id"],
        num_rows=record["catalog"]["rows"],
        num_units=record["num_units"],
        rows_per_unit=record["rows_per_unit"],
        record=record,
    )


def _replace_rows(old: pa.Table, new: pa.Table) -> pa.Table:
    new = new.select(old.column_names).cast(old.schema.remove_metadata())
    kept = old.filter(~np.isin(old["row_index"].to_numpy(), new["row_index"].to_numpy()))
    return pa.concat_tables([kept.cast(new.schema), new]).sort_by("row_index").cast(old.schema)


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    # To compress an image once more, or to look for two that are the same, costs time and gains nothing.
    columns = [table.schema.field(i) for i in range(table.num_columns)]
    pq.write_table(
        table,
        sink,
        compression={_leaf(field): "none" if field.name in _IMAGES else "zstd" for field in columns},
        use_dictionary=[_leaf(field) for field in columns if field.name not in _IMAGES],
    )
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _leaf(field: pa.Field) -> str:
    """Path of a column in a Parquet file."""
    return f"{field.name}.list.element" if pa.types.is_fixed_size_list(field.type) else str(field.name)


def part_name(part: int) -> str:
    """Name of a file of the checked catalogue in the run folder."""
    return f"catalog/part-{part:05d}.parquet"
