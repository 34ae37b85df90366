"""Angles of any notation and unit as decimal degrees on the sky."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from astropy import units as u
from astropy.coordinates import Angle
from numpy.typing import NDArray

from galaxray.catalog.values import as_text, read_numbers, to_float64
from galaxray.errors import CatalogError

__all__ = ["Angles", "Notation", "arcsec_factor", "declinations", "notation", "right_ascensions", "to_degrees"]

AngleUnit = Literal["auto", "deg", "rad", "hourangle"]

# What catalogues write, besides what astropy's unit parser knows.
_UNIT_SPELLINGS = {
    "degrees": u.deg,
    "degree": u.deg,
    "d": u.deg,
    "dms": u.deg,
    "d:m:s": u.deg,
    "radians": u.rad,
    "radian": u.rad,
    "h": u.hourangle,
    "hr": u.hourangle,
    "hour": u.hourangle,
    "hours": u.hourangle,
    "hms": u.hourangle,
    "h:m:s": u.hourangle,
}

# The regular notation, parsed for whole columns at once. What else astropy understands (unit signs, two numbers, east
# and west, 60 seconds) goes to astropy, value by value.
_SEXAGESIMAL = (
    r"^(?P<sign>[+-]?)(?P<whole>[0-9]{1,3})(?P<mark>[: hd])\s*"
    r"(?P<minutes>[0-9]{1,2})(?P<second_mark>[: m])\s*(?P<seconds>[0-9]{1,2}(?:\.[0-9]*)?)(?P<last_mark>s?)$"
)
MAX_UNIT_CHARS = 60
# astropy computes the powers in a unit exactly: 10**9999999999 would take it for ever.
_MARKS = ("::", "  ", "hm", "hms", "dm", "dms")


@dataclass(frozen=True)
class Notation:
    """How to read the numbers of a column.

    Attributes
    ----------
    decimal : astropy.units.UnitBase
        Unit of decimal numbers.
    sexagesimal : astropy.units.UnitBase
        Unit of the first of three numbers, where the text does not say it.
    """

    decimal: u.UnitBase
    sexagesimal: u.UnitBase


@dataclass(frozen=True)
class Angles:
    """A column of angles on the sky.

    Attributes
    ----------
    degrees : ndarray of float64, shape (N,)
        NaN where the value cannot be used.
    missing : ndarray of bool, shape (N,)
        Where there is no value: null, NaN, empty, or a sentinel such as -9999.
    problems : dict of int to str
        Why a value cannot be used, by position: the rest of a sentence that begins with the column's name.
    """

    degrees: NDArray[np.float64]
    missing: NDArray[np.bool_]
    problems: dict[int, str]


def notation(role: Literal["ra", "dec"], unit: str | None, flag: AngleUnit, what: str) -> Notation:
    """How to read a column, from its unit in the file and the flag ``--columns.angle_unit``.

    Sexagesimal right ascensions are hours unless the flag says degrees; sexagesimal declinations are degrees.

    Raises
    ------
    CatalogError
        If the unit in the file is not one of an angle and no flag overrides it.
    """
    if role == "dec":
        if flag != "auto":
            return Notation(u.rad if flag == "rad" else u.deg, u.deg)
        return Notation(_parse_unit(unit, what), u.deg)
    match flag:
        case "auto":
            return Notation(_parse_unit(unit, what), u.hourangle)
        case "hourangle":
            return Notation(u.hourangle, u.hourangle)
        case "deg":
            return Notation(u.deg, u.deg)
        case "rad":
            return Notation(u.rad, u.hourangle)


def right_ascensions(array: pa.Array, reading: Notation, what: str) -> Angles:
    """Read a column of right ascensions, in [0, 360); [-180, 0) is wrapped, and so is 360 itself."""
    degrees, missing = to_degrees(array, reading, what)
    beyond = (degrees < -180) | (degrees > 360)
    wrapped = np.where(degrees < 0, degrees + 360, degrees)
    wrapped[wrapped >= 360] -= 360  # 360, and what is so little below zero that adding 360 gives 360
    return _angles(array, wrapped, missing, beyond, "beyond -180 to 360 degrees")


def declinations(array: pa.Array, reading: Notation, what: str) -> Angles:
    """Read a column of declinations, in [-90, 90]."""
    degrees, missing = to_degrees(array, reading, what)
    return _angles(array, degrees, missing, np.abs(degrees) > 90, "beyond -90 to 90 degrees")


def to_degrees(array: pa.Array, reading: Notation, what: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Convert a column to degrees, without looking at the range.

    Parameters
    ----------
    array : pyarrow.Array
        Numbers, or text: each value decimal or sexagesimal.
    reading : Notation
    what : str
        The column's name, for messages.

    Returns
    -------
    degrees : ndarray of float64, shape (N,)
        NaN where there is no value, or none that can be read; otherwise what `astropy.coordinates.Angle` gives, to
        the last digits of a float64.
    missing : ndarray of bool, shape (N,)
        Where there is no value.
    """
    values, missing = read_numbers(array, what)
    degrees = values * _degrees_per(reading.decimal)
    positions = np.flatnonzero(np.isnan(values) & ~missing)
    if len(positions):  # there are such values in columns of text only
        text = as_text(array.take(pa.array(positions)), what)
        degrees[positions] = _sexagesimal_to_degrees(text, reading.sexagesimal)
    return degrees, missing


def arcsec_factor(unit: str | None, what: str) -> float:
    """Factor to arcsec (per pixel) from a column's unit in the file; without a unit it is taken for arcsec."""
    if not unit:
        return 1.0
    per_pixel = re.sub(r"\s*(/|per)\s*pix(el)?s?$|\s*pix(el)?s?\*?\*?-1$", "", unit.strip(), flags=re.IGNORECASE)
    return float(_parse_unit(per_pixel or unit, what).to(u.arcsec))


def _sexagesimal_to_degrees(text: pa.StringArray, unit: u.UnitBase) -> NDArray[np.float64]:
    # flatten, not field: it makes the parts of a text that does not match null
    sign, whole, mark, minutes, second_mark, seconds, last_mark = pc.extract_regex(text, _SEXAGESIMAL).flatten()
    whole, minutes, seconds = to_float64(whole), to_float64(minutes), to_float64(seconds)
    marks = pc.binary_join_element_wise(mark, second_mark, last_mark, "")
    is_hours = _true(pc.equal(mark, "h")) | (unit == u.hourangle) & ~_true(pc.equal(mark, "d"))
    is_regular = _true(pc.is_in(marks, pa.array(_MARKS))) & (minutes < 60) & (seconds < 60)
    is_regular &= ~is_hours | (whole < 24)
    value = whole + minutes / 60.0 + seconds / 3600.0
    value = np.where(_true(pc.equal(sign, "-")), -value, value)
    degrees = np.where(is_hours, value * _degrees_per(u.hourangle), value)
    for position in np.flatnonzero(~is_regular):
        degrees[position] = _astropy_degrees(text[position].as_py(), unit)
    return degrees


def _degrees_per(unit: u.UnitBase) -> float:
    """Degrees in one unit; astropy's own factor for hours is 14.999999999999998."""
    return 15.0 if unit == u.hourangle else float(unit.to(u.deg))


def _astropy_degrees(text: str, unit: u.UnitBase) -> float:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 60 seconds: a rounding that astropy carries over
            return float(Angle(text, unit=unit).degree)
    except (ValueError, TypeError, u.UnitsError):  # IllegalHourError and its kin are ValueErrors
        return float("nan")


def _angles(
    array: pa.Array,
    degrees: NDArray[np.float64],
    missing: NDArray[np.bool_],
    beyond: NDArray[np.bool_],
    bounds: str,
) -> Angles:
    degrees[beyond] = np.nan
    problems = {}
    for position in np.flatnonzero(np.isnan(degrees)).tolist():
        shown = _show(array[position].as_py())
        if missing[position]:
            problems[position] = "is missing" + (f" ({shown})" if shown else "")
        else:
            problems[position] = f"{shown} is " + (bounds if beyond[position] else "not an angle")
    return Angles(degrees, missing, problems)


def _show(value: Any) -> str:
    """Shorten a value for a message; nothing for null."""
    text = "" if value is None else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _parse_unit(text: str | None, what: str) -> u.UnitBase:
    if text is None or not text.strip():
        return u.deg
    plain = text.strip().strip("\"'").lower()
    is_modest = len(plain) <= MAX_UNIT_CHARS and not re.search(r"\d{5}", plain)
    unit = _UNIT_SPELLINGS.get(plain) or (u.Unit(plain, parse_strict="silent") if is_modest else u.one)
    if not unit.is_equivalent(u.deg):
        raise CatalogError(
            f"{what} has the unit {text[:MAX_UNIT_CHARS]!r}, which is no angle; give --columns.angle_unit"
        )
    return unit


def _true(array: pa.Array) -> NDArray[np.bool_]:
    """Convert booleans to numpy; null is False."""
    return np.asarray(pc.fill_null(array, False).to_numpy(zero_copy_only=False))
