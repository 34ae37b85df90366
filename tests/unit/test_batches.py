from __future__ import annotations

import numpy as np
import pytest

from galaxray.batches import num_rows, pack, text_array, unpack


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_batch_survives_the_journey(rows):
    batch = {
        "row_index": np.arange(rows),
        "object_id": text_array([f"J{i}" for i in range(rows)]),
        "error": text_array([None] * rows),
        "ra_deg": np.linspace(0, 359, rows),
        "attempts": np.full(rows, 3, dtype=np.int16),
        "image_bytes": text_array([None if i % 2 else b"\xff\xd8" * i for i in range(rows)]),
        "image_8_zoom1": np.arange(rows * 8 * 8 * 3, dtype=np.uint8).reshape(rows, 8, 8, 3),
        "embedding": np.arange(rows * 4, dtype=np.float32).reshape(rows, 4),
        "spiral_mask": text_array([None] * rows),
    }
    back, notes = unpack(pack(batch, {"unit": 7, "seconds": {"fetch": 0.5}}))

    assert notes == {"unit": 7, "seconds": {"fetch": 0.5}}
    assert list(back) == list(batch)
    assert num_rows(back) == rows
    for name, values in batch.items():
        assert back[name].dtype == values.dtype, name
        assert back[name].shape == values.shape, name
        np.testing.assert_array_equal(back[name], values)


def test_bytes_of_equal_length_stay_separate_objects():
    array = text_array([b"abc", b"def"])
    assert array.shape == (2,)
    assert array[1] == b"def"
