"""Identifiers stay what they are."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from galaxray.catalog.values import as_identifiers, as_text, read_numbers
from galaxray.errors import CatalogError


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([587727178986356823, None, -1]), ["587727178986356823", None, "-1"]),
        (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
        (pa.array([" J1234 ", "", "0012", "1.0", "NULL", "1e5"]), ["J1234", None, "0012", "1.0", None, "1e5"]),
        (pa.array(["5e17", "1e+05", "2.5E3", "12e+17"]), ["5e17", "1e+05", "2.5E3", "12e+17"]),
        (pa.array([b"NGC 1  ", None]), ["NGC 1", None]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.array([Decimal(587727178986356823)]), ["587727178986356823"]),
        (pa.array([20686062.0, np.nan, None, -3.0]), ["20686062", None, None, "-3"]),
        (pa.array([2.0**53 - 1]), ["9007199254740991"]),
        (pa.nulls(2), [None, None]),
        (pa.array(["a", None], pa.string_view()), ["a", None]),
        (pa.array([b"a ", None], pa.binary_view()), ["a", None]),
        (pa.array(["a", None], pa.large_string()), ["a", None]),
        (pa.array(["a", None], pa.large_string()).dictionary_encode(), ["a", None]),
    ],
)
def test_identifiers(array: pa.Array, expected: list[str | None]) -> None:
    assert as_identifiers(array, "id").to_pylist() == expected


@pytest.mark.parametrize(
    "array",
    [
        pa.array([1.0, 587727178986356823.0]),
        pa.array([2.0**53]),
        pa.array([16777216.0], pa.float32()),
        pa.array(["1", "5.877271789863568e+17"]),
        pa.array(["5.87727E+17"]),
        pa.array(["5.87727178986356823E17"]),
        pa.array(["5e+17"]),
    ],
)
def test_identifiers_that_a_float_has_damaged(array: pa.Array) -> None:
    row = 100 + len(array) - 1
    with pytest.raises(
        CatalogError, match=rf"column 'objid' holds .* in row {row}: .*passed through a float have lost digits"
    ):
        as_identifiers(array, "column 'objid'", 100)


@pytest.mark.parametrize("array", [pa.array([0.5]), pa.array([True]), pa.array([[1]]), pa.array([b"\xff"])])
def test_what_is_no_identifier(array: pa.Array) -> None:
    with pytest.raises(CatalogError, match=r"^column 'x' holds "):
        as_identifiers(array, "column 'x'")


def test_numbers_and_what_is_missing() -> None:
    values, missing = read_numbers(pa.array(["1.5", "+2", "x", "-99", "", None, "1d5"]), "x")
    np.testing.assert_array_equal(values, [1.5, 2, np.nan, np.nan, np.nan, np.nan, np.nan])
    assert missing.tolist() == [False, False, False, True, True, True, False]


def test_numbers_of_a_type_that_has_none() -> None:
    with pytest.raises(CatalogError, match="holds bool"):
        read_numbers(pa.array([True]), "x")


def test_text_without_padding() -> None:
    assert as_text(pa.array(["images/a b.jpg ", "--", None]), "path").to_pylist() == ["images/a b.jpg", None, None]
