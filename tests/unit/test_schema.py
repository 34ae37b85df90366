from __future__ import annotations

import numpy as np
import pyarrow as pa

from galaxray.batches import text_array
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
