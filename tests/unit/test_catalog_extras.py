"""Columns that are read along keep what they hold, in every format."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io.votable import from_table, writeto
from astropy.table import MaskedColumn, Table

from galaxray.catalog import open_catalog
from galaxray.config import CatalogConfig
from galaxray.errors import CatalogError

BIG = 587727178986356823
COLUMNS = {
    "count": [3, 0, None, 12],
    "other_id": [BIG, BIG + 1, BIG + 2, None],
    "fraction": [0.25, None, 1.0, -9999.0],
    "kind": ["spiral", "none", None, "E"],
}


def read(path: Path, names: list[str], *missing: str, **config: object) -> dict[str, list[object]]:
    catalog = open_catalog(str(path), CatalogConfig.model_validate(config))
    catalog.read_along(dict(zip(names, names, strict=True)), missing)
    table = pa.Table.from_batches(catalog.slices(rows=3))
    assert table.schema == catalog.schema
    return {name: table["extras"].combine_chunks().field(name) for name in names}


def as_csv(path: Path, columns: dict[str, list[object]] = COLUMNS) -> Path:
    num = len(next(iter(columns.values())))
    rows = [
        [f"g{row}", "10.5", "-3", *("" if v[row] is None else str(v[row]) for v in columns.values())]
        for row in range(num)
    ]
    path.write_text("\n".join(",".join(row) for row in [["objid", "ra", "dec", *columns], *rows]) + "\n")
    return path


def as_table() -> Table:
    table = Table({"objid": ["g0", "g1", "g2", "g3"], "ra": [10.5] * 4, "dec": [-3.0] * 4})
    for name, values in COLUMNS.items():
        fill = "" if name == "kind" else 0
        mask = [value is None for value in values]
        column = MaskedColumn([fill if value is None else value for value in values], mask=mask, name=name)
        table.add_column(column.astype(float) if name == "fraction" else column)
    return table


def write(path: Path) -> Path:
    table = as_table()
    match path.suffix:
        case ".csv":
            return as_csv(path)
        case ".parquet":
            pq.write_table(
                pa.table({"objid": ["g0", "g1", "g2", "g3"], "ra": [10.5] * 4, "dec": [-3.0] * 4} | COLUMNS), path
            )
        case ".ecsv":
            table.write(path, format="ascii.ecsv")
        case ".fits":
            table["count"].fill_value = -32768
            table.write(path)
        case ".xml":
            writeto(from_table(table), str(path), tabledata_format="tabledata")
        case ".vot":
            writeto(from_table(table), str(path), tabledata_format="binary2")
    return path


@pytest.mark.parametrize("name", ["c.csv", "c.parquet", "c.ecsv", "c.fits", "c.xml", "c.vot"])
def test_values_survive_in_every_format(tmp_path, name):
    found = read(write(tmp_path / name), list(COLUMNS), "-9999")
    assert {name: str(array.type) for name, array in found.items()} == {
        "count": "int64",
        "other_id": "int64",
        "fraction": "double",
        "kind": "string",
    }
    assert found["count"].to_pylist() == [3, 0, None, 12]
    assert found["other_id"].to_pylist() == [BIG, BIG + 1, BIG + 2, None]
    assert found["fraction"].to_pylist() == [0.25, None, 1.0, None]
    assert found["kind"].to_pylist() == ["spiral", "none", None, "E"]


def test_sentinels_are_values_unless_told_otherwise(tmp_path):
    path = as_csv(tmp_path / "c.csv", {"a": [-99, 1], "b": [-9999.0, 2.5], "c": ["-99", "x"]})
    assert read(path, ["a", "b", "c"])["a"].to_pylist() == [-99, 1]
    told = read(path, ["a", "b", "c"], "-99", "-9999", "x")
    assert [values.to_pylist() for values in told.values()] == [[None, 1], [None, 2.5], [None, None]]
    pq.write_table(pa.table({"id": ["a", "b"], "ra": [1, 2], "dec": [1, 2], "n": [-99, 4]}), tmp_path / "c.parquet")
    assert read(tmp_path / "c.parquet", ["n"], "-99")["n"].to_pylist() == [None, 4]


@pytest.mark.parametrize(
    ("values", "kind", "kept"),
    [
        ([1, 2.5], "double", [1.0, 2.5]),
        (["1", "x"], "string", ["1", "x"]),
        (["007", "18"], "string", ["007", "18"]),
        (["1.0", "2.0"], "double", [1.0, 2.0]),
        (["+1", "1e3"], "double", [1.0, 1000.0]),
        (["--", "5"], "int64", [None, 5]),
        (["nan", "5.5"], "double", [None, 5.5]),
        (["--", "null"], "double", [None, None]),
        (["none", "weak"], "string", ["none", "weak"]),
        (["  barred ", "weak"], "string", ["barred", "weak"]),
        (["99999999999999999999", "1"], "string", ["99999999999999999999", "1"]),
        (["0587727178986356823", "1"], "string", ["0587727178986356823", "1"]),
        (["True", "False"], "string", ["True", "False"]),
        ([None, None], "double", [None, None]),
    ],
)
def test_what_text_holds(tmp_path, values, kind, kept):
    found = read(as_csv(tmp_path / "c.csv", {"x": values}), ["x"])["x"]
    assert str(found.type) == kind
    assert found.to_pylist() == kept


def test_a_text_far_down_makes_a_column_of_text(tmp_path):
    values: list[object] = [*range(200_000), "unknown"]
    found = read(as_csv(tmp_path / "c.csv", {"x": values}), ["x"])["x"]
    assert found.type == pa.string()
    assert found[17].as_py() == "17"


def test_only_the_rows_that_are_wanted_tell_what_a_column_holds(tmp_path):
    catalog = open_catalog(str(as_csv(tmp_path / "c.csv", {"x": [1, 2, "unknown"]})))
    catalog.read_along({"x": "x"})
    assert pa.Table.from_batches(catalog.slices(limit=2))["extras"].to_pylist() == [{"x": 1}, {"x": 2}]
    assert "4 columns" in catalog.describe()
    assert pa.Table.from_batches(catalog.slices())["extras"].to_pylist()[0] == {"x": "1"}


def test_a_column_may_have_two_roles_and_another_name(tmp_path):
    path = as_csv(tmp_path / "c.csv", {"x": [1, 2]})
    catalog = open_catalog(str(path))
    catalog.read_along({"right": "ra", "id": "objid", "x": "x", "again": "x"})
    rows = pa.Table.from_batches(catalog.slices())
    assert rows["ra_deg"].to_pylist() == [10.5, 10.5]
    assert rows["extras"].to_pylist() == [
        {"right": 10.5, "id": "g0", "x": 1, "again": 1},
        {"right": 10.5, "id": "g1", "x": 2, "again": 2},
    ]


def test_typed_columns(tmp_path):
    table = pa.table(
        {"id": ["a", "b"], "ra": [1.0, 2.0], "dec": [1.0, 2.0]}
        | {"flag": [True, None], "f32": pa.array([0.5, np.nan], pa.float32()), "u8": pa.array([255, 0], pa.uint8())}
        | {"text": pa.array(["x", "y"]).dictionary_encode(), "when": pa.array([0, 1], pa.timestamp("s"))}
    )
    pq.write_table(table, tmp_path / "c.parquet")
    found = read(tmp_path / "c.parquet", ["flag", "f32", "u8", "text"])
    assert {name: values.to_pylist() for name, values in found.items()} == {
        "flag": [1, None],
        "f32": [0.5, None],
        "u8": [255, 0],
        "text": ["x", "y"],
    }
    with pytest.raises(CatalogError, match=r"column 'when' holds timestamp.*, neither numbers nor text"):
        read(tmp_path / "c.parquet", ["when"])


def test_a_typo_names_the_nearest(tmp_path):
    catalog = open_catalog(str(as_csv(tmp_path / "c.csv")))
    assert catalog.column_names == ("objid", "ra", "dec", *COLUMNS)
    with pytest.raises(CatalogError, match=r"no column 'fractoin' \(did you mean 'fraction'\?\); columns found: objid"):
        catalog.read_along({"fractoin": "fractoin"})
    twice = tmp_path / "t.csv"
    twice.write_text("objid,ra,dec,x,x\na,1,1,1,1\n")
    with pytest.raises(CatalogError, match="2 columns are called 'x'"):
        open_catalog(str(twice)).read_along({"x": "x"})


def test_a_check_sees_each_slice_and_may_refuse_it(tmp_path):
    catalog = open_catalog(str(as_csv(tmp_path / "c.csv")))
    seen: list[int] = []
    catalog.read_along({"count": "count"}, check=lambda rows: seen.append(rows.num_rows))
    list(catalog.slices(rows=3))
    assert seen == [3, 1]


def test_a_compressed_catalogue_is_read_twice(tmp_path):
    path = as_csv(tmp_path / "c.csv")
    packed = tmp_path / "c.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read(packed, ["count"])["count"].to_pylist() == [3, 0, None, 12]
