"""Angles come out as astropy has them, whatever their notation."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pyarrow as pa
import pytest
from astropy import units as u
from astropy.coordinates import Angle
from hypothesis import given
from hypothesis import strategies as st

from galaxray.catalog.angles import arcsec_factor, declinations, notation, right_ascensions, to_degrees
from galaxray.errors import CatalogError

HOURS = notation("ra", None, "auto", "ra")
DEGREES = notation("dec", None, "auto", "dec")


def astropy_degrees(text: str, unit: u.UnitBase) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return float(Angle(text, unit=unit).degree)
        except ValueError:
            return float("nan")


def ra(values: list[object], unit: str | None = None, flag: str = "auto") -> list[float]:
    return right_ascensions(pa.array(values), notation("ra", unit, flag, "ra"), "ra").degrees.tolist()


def dec(values: list[object], unit: str | None = None, flag: str = "auto") -> list[float]:
    return declinations(pa.array(values), notation("dec", unit, flag, "dec"), "dec").degrees.tolist()


def test_galaxy_zoo_1() -> None:
    assert round(ra(["00:00:00.41"])[0], 8) == 0.00170833
    assert round(dec(["-10:22:25.7"])[0], 8) == -10.37380556


@given(
    sign=st.sampled_from(["", "+", "-"]),
    whole=st.integers(0, 90),
    minutes=st.integers(0, 61),
    seconds=st.one_of(st.integers(0, 61), st.floats(0, 61).map(lambda value: round(value, 5))),
    marks=st.sampled_from(
        ["{}:{}:{}", "{} {} {}", "{}h{}m{}s", "{}d{}m{}s", "{}h {}m {}s", "{}d{}m{}", "{}:{} {}", "{}°{}′{}″", "{}:{}"]
    ),
    width=st.sampled_from(["", "02"]),
)
def test_sexagesimal_equals_astropy(
    sign: str, whole: int, minutes: int, seconds: float, marks: str, width: str
) -> None:
    text = sign + marks.format(f"{whole:{width}d}", f"{minutes:{width}d}", seconds)
    for reading in (HOURS, DEGREES):
        ours, missing = to_degrees(pa.array([text]), reading, "angle")
        expected = astropy_degrees(text, reading.sexagesimal)
        np.testing.assert_allclose(ours, [expected], rtol=4e-16, err_msg=text)  # two units in the last place
        assert not missing.any()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_decimal_text_is_read_exactly(value: float) -> None:
    ours, _ = to_degrees(pa.array([repr(value), f" {value:+.17g} "]), DEGREES, "angle")
    expected = np.nan if value in (-99, -999, -9999, -99999) else value
    np.testing.assert_array_equal(ours, [expected, expected])


def test_notations_may_change_from_row_to_row() -> None:
    values = ["12.5", "+12.5", "1:00:00", "1h", "01h00m00.00s", "15d00m00s", None, "x", "1e1", ".5", "5.", "01 00 00"]
    expected = [12.5, 12.5, 15.0, 15.0, 15.0, 15.0, np.nan, np.nan, 10.0, 0.5, 5.0, 15.0]
    np.testing.assert_allclose(ra(values), expected, rtol=4e-16)


def test_right_ascension_is_wrapped() -> None:
    assert ra([-180.0, -0.5, -1e-30, 0.0, 359.5, 360.0]) == [180.0, 359.5, 0.0, 0.0, 359.5, 0.0]
    assert ra(["-00:30:00", "12:60:00"]) == [352.5, pytest.approx(195)]


@pytest.mark.parametrize("value", [400.0, -180.1, np.inf, "400", "25:00:00", "12:61:00", "abc", "1:2:3:4", "0x10"])
def test_what_is_no_right_ascension(value: object) -> None:
    angles = right_ascensions(pa.array([value]), HOURS, "ra")
    assert np.isnan(angles.degrees[0])
    assert not angles.missing[0]
    assert str(value) in angles.problems[0]


@pytest.mark.parametrize("value", [95.0, -90.0001, "91", "-90:00:01", "+10:-3:00"])
def test_what_is_no_declination(value: object) -> None:
    angles = declinations(pa.array([value]), DEGREES, "dec")
    assert np.isnan(angles.degrees[0])
    assert not angles.missing[0]


@pytest.mark.parametrize(
    "values", [["", "nan", "NaN", "null", "--", "-9999", "-99.", "N/A", " ", None], [-9999.0, -99.0, np.nan, None]]
)
def test_missing_values(values: list[object]) -> None:
    angles = right_ascensions(pa.array(values), HOURS, "ra")
    assert np.isnan(angles.degrees).all()
    assert angles.missing.all()
    assert all(problem.startswith("is missing") for problem in angles.problems.values())


def test_sentinels_among_integers() -> None:
    angles = right_ascensions(pa.array([-99, 10, -9999]), HOURS, "ra")
    assert angles.missing.tolist() == [True, False, True]


@pytest.mark.parametrize("unit", [None, "", "deg", "degrees", "Degree", "DEG", '"deg"', "d:m:s"])
def test_spellings_of_degrees(unit: str | None) -> None:
    assert ra([10.5], unit) == [10.5]


@pytest.mark.parametrize("unit", ["h", "hr", "hours", "hourangle", '"h:m:s"', "HMS"])
def test_spellings_of_hours(unit: str) -> None:
    assert ra([1.5, 2.0], unit) == [22.5, 30.0]
    assert ra(["01:30:00", "2"], unit) == [22.5, 30.0]


@pytest.mark.parametrize("unit", ["rad", "radian", "Radians"])
def test_radians_by_unit(unit: str) -> None:
    values = [1.0, np.pi]
    assert ra(values, unit) == (values * u.rad).to_value(u.deg).tolist()
    assert dec([-0.5], unit) == [(-0.5 * u.rad).to_value(u.deg)]


def test_flag_overrides_the_unit() -> None:
    assert ra([1.0], "deg", "hourangle") == [15.0]
    assert ra(["10:00:00"], None, "deg") == [10.0]
    assert ra([np.pi], "deg", "rad") == [180.0]
    assert dec([np.pi / 4], None, "rad") == [45.0]
    assert dec(["45:30:00"], None, "hourangle") == [45.5]


@pytest.mark.parametrize("unit", ["km", "mag", "J2000", "pixel"])
def test_unit_that_is_no_angle(unit: str) -> None:
    with pytest.raises(CatalogError, match=rf"column 'ra' has the unit '{unit}', which is no angle"):
        notation("ra", unit, "auto", "column 'ra'")
    assert notation("ra", unit, "deg", "ra").decimal == u.deg


@pytest.mark.parametrize(
    ("unit", "factor"), [(None, 1), ("", 1), ("arcsec", 1), ("arcsec/pix", 1), ("arcmin", 60), ("deg/pixel", 3600)]
)
def test_lengths_on_the_sky(unit: str | None, factor: float) -> None:
    assert arcsec_factor(unit, "size") == pytest.approx(factor)


def test_length_with_a_unit_that_is_no_angle() -> None:
    with pytest.raises(CatalogError, match="'kpc'"):
        arcsec_factor("kpc", "size")


def test_a_column_is_parsed_as_a_whole() -> None:
    """Value by value through astropy, this would take a minute."""
    seconds = np.arange(200_000) % 60
    column = pa.array([f"12:34:{value:05.2f}" for value in seconds])
    start = time.perf_counter()
    degrees, _ = to_degrees(column, HOURS, "ra")
    assert time.perf_counter() - start < 5
    assert degrees[59] == pytest.approx(Angle("12:34:59.00", unit=u.hourangle).degree, rel=4e-16)
