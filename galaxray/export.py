"""A run's table as CSV, for spreadsheets and for programs that read nothing else.

A spreadsheet takes a cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a line end for a formula, and a formula
may fetch pages or run programs. Identifiers and error texts were written by others, so such a text gets an apostrophe
in front, as OWASP advises ("CSV Injection"); one that begins with an apostrophe gets another, so that taking one away
from every text that begins with one gives back what the table holds. Numbers stay numbers.
"""

from __future__ import annotations

import base64
import difflib
import errno
import gzip
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from galaxray.errors import ConfigError, RunError
from galaxray.runs import Run, open_run
from galaxray.schema import Status
from galaxray.units import unit_name

__all__ = ["defuse", "export_csv", "flat_table"]

DANGEROUS_START = r"^[=+\-@\t\r\n'＝＋－＠]"  # also the full-width signs, which some spreadsheets take for the others


def export_csv(
    output: str,
    target: str,
    *,
    columns: Sequence[str] | None = None,
    statuses: Sequence[str] | None = None,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> tuple[int, Run]:
    """Write the rows of a run that are done into one CSV file, in the order of the catalogue.

    Parameters
    ----------
    output : str
        Run folder, a path or ``s3://``.
    target : str
        Local path; ``.csv.gz`` is compressed. It appears when it is whole, and replaces what was there.
    columns : sequence of str, optional
        Columns of the table, in this order. Left out: all but vectors, masks and images. A vector that is named becomes
        a column per number (``embedding_0``, ...), and a mask or image its bytes in base64.
    statuses : sequence of str, optional
        Only rows with one of these statuses.
    on_rows : callable
        Told the number of rows written so far.

    Returns
    -------
    rows : int
        Rows written.
    run : Run

    Raises
    ------
    ConfigError
        If there is no run, no such column or status, or the file cannot be written.
    RunError
        If a unit of the run cannot be read.
    """
    run = open_run(output)
    if run is None:
        raise ConfigError(f"{output} holds no run: there is no run.json")
    if unknown := sorted(set(statuses or ()) - set(Status)):
        raise ConfigError(f"no status {unknown[0]!r}: they are {', '.join(Status)}")
    units = run.done()
    if not units:
        raise ConfigError(f"{output} has no rows yet")
    rows = 0
    with _whole(target) as file:
        schema = _read(run, units[0], None).schema
        names = _chosen(schema, columns)
        writer: pyarrow.csv.CSVWriter | None = None
        for unit in units:
            table = _read(run, unit, [*dict.fromkeys([*names, "status"])])
            if statuses is not None:
                table = table.filter(pc.is_in(table["status"], pa.array(statuses, pa.string())))
            table = flat_table(table.select(names))
            writer = writer or pyarrow.csv.CSVWriter(file, table.schema)
            writer.write_table(table)
            rows += table.num_rows
            on_rows(rows)
        assert writer is not None
        writer.close()
    return rows, run


def defuse(text: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Put an apostrophe before each text that a spreadsheet would take for a formula, or that begins with one."""
    is_dangerous = pc.match_substring_regex(text, DANGEROUS_START)
    return pc.if_else(is_dangerous, pc.binary_join_element_wise("'", text, ""), text)


def _read(run: Run, unit: int, columns: list[str] | None) -> pa.Table:
    name = unit_name(unit)
    try:
        with run.folder.open(name) as file:
            if columns is None:
                return pq.read_schema(file).empty_table()
            return pq.ParquetFile(file).read(columns=columns).select(columns)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise RunError(f"{run.output}/{name} cannot be read: {error}") from error


def _chosen(schema: pa.Schema, columns: Sequence[str] | None) -> list[str]:
    if columns is None:
        return [field.name for field in schema if not (pa.types.is_nested(field.type) or _is_bytes(field.type))]
    for name in columns:
        if name not in schema.names:
            near = difflib.get_close_matches(name, schema.names, n=1)
            hint = f"; did you mean {near[0]}?" if near else f": there are {', '.join(schema.names)}"
            raise ConfigError(f"the table has no column {name!r}{hint}")
    if not columns or len(set(columns)) < len(columns):
        raise ConfigError("name each column once, and one at least")
    return list(columns)


def flat_table(table: pa.Table) -> pa.Table:
    """Columns that CSV can hold, with names and texts that are no formulas."""
    return pa.Table.from_pydict(dict(_flat_columns(table)))


def _flat_columns(table: pa.Table) -> Iterator[tuple[str, pa.Array | pa.ChunkedArray]]:
    for field, column in zip(table.schema, table.columns, strict=True):
        name = defuse(pa.array([field.name]))[0].as_py()
        if pa.types.is_fixed_size_list(field.type):
            for position in range(field.type.list_size):
                yield f"{name}_{position}", pc.list_element(column, position)
        elif _is_bytes(field.type):
            yield name, pa.array(_base64(column.to_pylist()), pa.string())
        else:
            yield name, defuse(column) if pa.types.is_string(field.type) else column


def _base64(values: Iterable[bytes | None]) -> Iterator[str | None]:
    return (None if value is None else base64.b64encode(value).decode() for value in values)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


@contextmanager
def _whole(target: str) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """Open a file that takes its name when it is whole, and is gone if it never is."""
    path = Path(target).expanduser()
    if "://" in target or path.is_dir():
        raise ConfigError(f"{target}: name a local file, table.csv or table.csv.gz")
    staged = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex}")
    try:
        with staged.open("xb") as file:
            if path.suffix == ".gz":
                with gzip.GzipFile(fileobj=file, mode="wb", filename="", compresslevel=6) as packed:
                    yield packed
            else:
                yield file
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    except OSError as error:
        room = "; make room and export again" if error.errno == errno.ENOSPC else ""
        raise ConfigError(f"{target} cannot be written: {error.strerror or error}{room}") from error
    finally:
        staged.unlink(missing_ok=True)
