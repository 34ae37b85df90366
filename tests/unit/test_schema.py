from __future__ import annotations

import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.table import Table

from galaxray.batches import text_array
from galaxray.catalog import open_catalog
from galaxray.config import RunConfig
from galaxray.plan import plan_run
from galaxray.runs import unit_name
from galaxray.schema import COLUMNS, to_table


def finished_batch() -> dict[str, np.ndarray]:
    return {
        "row_index": np.arange(3),
        "object_id": text_array(["587727178986356823", "b", "c"]),
        "ra_deg": np.array([1.0, 2.0, np.nan]),
        "dec_deg": np.array([1.0, 2.0, np.nan]),
        "status": text_array(["ok", "blank", "bad_coordinates"]),
        "error": text_array([None, "all pixels are 0", "Dec is missing"]),
        "size_arcsec": np.full(3, np.nan),
        "attempts": np.array([1, 1, 0], dtype=np.int16),
        "image_url": text_array(["http://a", "http://b", None]),
        "image_sha256": text_array(["00", "11", None]),
        "pixel_scale_arcsec": np.array([0.262, 0.262, np.nan]),
        "image_width": np.array([256, 256, 0], dtype=np.int32),
        "image_height": np.array([256, 256, 0], dtype=np.int32),
        "image_8_zoom1": np.zeros((3, 8, 8, 3), np.uint8),
        "smooth_fraction": np.array([0.5, 0.9, np.nan], np.float32),
        "embedding": np.ones((3, 4), np.float32),
        "spiral_mask": text_array([b"png", None, None]),
    }


def test_predictions_are_null_unless_ok():
    table = to_table(finished_batch())
    # Row 1 was blank: what a model said of it, whatever it was, must not be published.
    assert table["smooth_fraction"].to_pylist() == [0.5, None, None]
    assert table["embedding"].to_pylist() == [[1.0] * 4, None, None]
    assert table["spiral_mask"].to_pylist() == [b"png", None, None]


def test_catalogue_columns_are_kept_for_every_row():
    table = to_table(finished_batch())
    assert table["row_index"].to_pylist() == [0, 1, 2]
    assert table["status"].to_pylist() == ["ok", "blank", "bad_coordinates"]
    assert table["object_id"].to_pylist()[0] == "587727178986356823"
    assert table["ra_deg"].to_pylist() == [1.0, 2.0, None]
    assert table["image_width"].to_pylist() == [256, 256, None]


def test_pixels_and_working_columns_are_no_part_of_the_table():
    names = to_table(finished_batch()).column_names
    assert "size_arcsec" not in names
    assert not [name for name in names if name.startswith("image_8")]


def test_types_are_portable():
    schema = to_table(finished_batch()).schema
    assert schema.field("embedding").type == pa.list_(pa.float32(), 4)
    for name, column in COLUMNS.items():
        if name in schema.names:
            assert schema.field(name).type == column.type, name
            assert schema.field(name).metadata[b"unit"].decode() == column.unit


def test_every_column_says_what_it_means():
    batch = finished_batch() | {
        "bar-dr5_strong_fraction": np.zeros(3, np.float32),
        "bar-dr5_strong_90pc-lower": np.zeros(3, np.float32),
        "bar-dr5_strong_90pc-upper": np.zeros(3, np.float32),
        "bar-dr5_proportion-asked": np.zeros(3, np.float32),
        "E_probability": np.zeros(3, np.float32),
        "stellar_mass": np.zeros(3, np.float32),
    }
    described = {field.name: field.metadata[b"description"].decode() for field in to_table(batch).schema}
    assert all(described.values())
    assert described["stellar_mass"] == "target of a regression"
    assert described["E_probability"] == "probability of this class"
    assert described["bar-dr5_strong_fraction"].startswith("expected fraction of the votes")
    assert len(set(described.values())) == len(described) - 1  # two vote fractions


def test_common_programs_read_a_unit(tmp_path):
    """As the README says: null is null, an id stays text, and images come back as they were."""
    batch = finished_batch() | {"image": text_array([b"jpeg" * 99, b"jpeg" * 99, None])}
    catalog = tmp_path / "c.csv"
    catalog.write_text("object_id,ra,dec\na,1,1\nb,2,2\nc,3,3\n")
    config = RunConfig(catalog=str(catalog), output=str(tmp_path / "run"))
    run = plan_run(config, open_catalog(str(catalog), config.columns), {}, versions={})
    run.commit(0, to_table(batch))
    unit = str(tmp_path / "run" / unit_name(0))

    ids, fractions, reasons = ["587727178986356823", "b", "c"], [0.5, None, None], [None, *batch["error"][1:]]
    arrow = pq.read_table(unit)
    polar = polars.read_parquet(unit)
    duck = duckdb.sql(f"select * from '{unit}' order by row_index").to_arrow_table()
    for table in (arrow, polar.to_arrow(), duck):
        assert table["object_id"].to_pylist() == ids
        assert table["smooth_fraction"].to_pylist() == fractions
        assert table["error"].to_pylist() == reasons
        assert table["embedding"].to_pylist() == [[1.0] * 4, None, None]
        assert table["image"].to_pylist() == batch["image"].tolist()
    frame = pd.read_parquet(unit)
    stars = Table.from_pandas(frame)
    assert frame["object_id"].tolist() == list(stars["object_id"]) == ids
    assert frame["smooth_fraction"].isna().tolist() == [False, True, True]
    assert frame["error"].isna().tolist() == stars["error"].mask.tolist() == [True, False, False]
    assert list(Table.read(unit, format="parquet", include_names=["ra_deg", "smooth_fraction"])["ra_deg"][:2]) == [1, 2]

    column = pq.read_metadata(unit).row_group(0).column(arrow.column_names.index("image"))
    assert (column.compression, column.has_dictionary_page) == ("UNCOMPRESSED", False)
