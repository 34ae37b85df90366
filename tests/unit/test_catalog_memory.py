"""Only the needed columns are read, and never the whole table."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from galaxray.catalog import open_catalog

ROWS = 1_000_000


def test_other_columns_of_parquet_are_not_read(tmp_path: Path) -> None:
    """Their bytes are destroyed, and nobody notices."""
    path = tmp_path / "c.parquet"
    noise = np.random.default_rng(0).bytes(200_000)
    columns = {
        "ra": np.arange(100.0),
        "notes": [noise[n * 2000 : n * 2000 + 2000] for n in range(100)],
        "dec": [0.5] * 100,
    }
    pq.write_table(pa.table(columns), path, use_dictionary=False, compression="none", write_statistics=False)
    content = bytearray(path.read_bytes())
    start = content.index(noise[:1000])
    content[start : start + 200_000] = b"\xff" * 200_000
    path.write_bytes(content)
    with pytest.raises(pa.ArrowException):
        pq.read_table(path, columns=["notes"])
    pieces = list(open_catalog(str(path)).slices())
    assert pieces[0]["ra_deg"].to_pylist() == list(range(100))


def test_other_columns_of_text_are_not_converted(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_bytes(b"ra,dec,notes\n1,2,\xff\xfe\n3,4,\xc0\n")
    assert next(open_catalog(str(path)).slices())["ra_deg"].to_pylist() == [1, 3]


def write_csv(table: pa.Table, path: Path) -> None:
    pyarrow.csv.write_csv(table, path)


def write_gzipped_csv(table: pa.Table, path: Path) -> None:
    pyarrow.csv.write_csv(table, path)
    path.write_bytes(gzip.compress(path.read_bytes(), 1))


def write_one_row_group(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path)


def write_fits(table: pa.Table, path: Path) -> None:
    Table({name: table[name].to_numpy() for name in table.column_names}).write(path, format="fits")


@pytest.mark.parametrize(
    ("write", "bound"),
    [(write_csv, 45), (write_gzipped_csv, 45), (write_one_row_group, 24), (write_fits, 12)],
)
def test_memory_is_bounded(write: Callable[[pa.Table, Path], None], bound: float, tmp_path: Path) -> None:
    """All rows together take 58 MB as they leave the catalogue; what holds the file, too, needs 20 to 50 MB more."""
    columns = {
        "objid": np.arange(ROWS) + 587722981747982465,
        "ra": np.linspace(0, 360, ROWS, endpoint=False),
        "dec": np.linspace(-90, 90, ROWS),
    }
    path = tmp_path / "catalogue"
    write(pa.table(columns), path)
    catalog = open_catalog(str(path))
    before = pa.total_allocated_bytes()
    rows = peak = 0
    for piece in catalog.slices(rows=16_384):
        assert piece.num_rows <= 16_384
        rows += piece.num_rows
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert rows == ROWS
    assert peak < bound * 2**20
