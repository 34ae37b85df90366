"""Read columns of any type as text, numbers and identifiers, with one idea of what is missing."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from galaxray.errors import CatalogError

__all__ = ["as_identifiers", "as_text", "decode", "is_text", "read_numbers", "to_float64"]

MISSING_TEXT = ("", "nan", "null", "none", "na", "n/a", "--", "-", "...", "masked", "\\n")
"""Texts, in lower case, that stand for a missing value."""
SENTINELS = (-99.0, -999.0, -9999.0, -99999.0)
"""Numbers that stand for a missing value in survey tables."""

_EXACT_INTEGERS = {16: 2**11, 32: 2**24, 64: 2**53}  # by width of a float: from here on it skips integers
_NUMBER = r"^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$"
# Written from a float: with a sign, 5.87e+17; or of 16 digits and more, where 5e17 may be an identifier in hex.
_FROM_FLOAT = (
    r"^[0-9](?:\.[0-9]+[eE]\+[0-9]+|(?:\.[0-9]*)?[eE]\+(?:1[5-9]|[2-9][0-9])|\.[0-9]*[eE](?:1[5-9]|[2-9][0-9]))$"
)
_ID_FLAG = "--columns.id_column"


def decode(array: pa.Array, what: str) -> pa.Array:
    """Undo dictionary encoding and views, and take bytes for text; nothing else changes."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_string_view(array.type):
        array = array.cast(pa.string())
    if pa.types.is_fixed_size_binary(array.type) or pa.types.is_binary_view(array.type):
        array = array.cast(pa.binary())
    if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        try:
            array = array.cast(pa.string())
        except pa.ArrowInvalid as error:
            raise CatalogError(f"{what} holds bytes that are no UTF-8 text") from error
    if pa.types.is_null(array.type):
        array = array.cast(pa.string())
    return array


def is_text(array: pa.Array) -> bool:
    """Whether an array holds text (as every column of a text format does)."""
    return bool(pa.types.is_string(array.type) or pa.types.is_large_string(array.type))


def as_text(array: pa.Array, what: str) -> pa.StringArray:
    """Any array of text or numbers as text without surrounding blanks; missing values are null.

    Raises
    ------
    CatalogError
        If the type has no plain text form; ``what`` names the column.
    """
    array = decode(array, what)
    if pa.types.is_boolean(array.type) or pa.types.is_nested(array.type) or pa.types.is_temporal(array.type):
        raise CatalogError(f"{what} holds {array.type}, not text or numbers")
    text = pc.utf8_trim_whitespace(array.cast(pa.string()))
    missing = pc.is_in(pc.utf8_lower(text), pa.array(MISSING_TEXT))
    return pc.if_else(missing, pa.scalar(None, pa.string()), text) if pc.any(missing).as_py() else text


def read_numbers(array: pa.Array, what: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Read any array of numbers, as numbers or as text.

    Returns
    -------
    values : ndarray of float64, shape (N,)
        NaN where there is no value or no number.
    missing : ndarray of bool, shape (N,)
        Where there is no value: null, NaN, a text like ``--``, or a sentinel like -9999.

    Raises
    ------
    CatalogError
        If the type is neither number nor text.
    """
    array = decode(array, what)
    if is_text(array):
        text = as_text(array, what)
        values = parse_numbers(text)
        missing = np.array(text.is_null().to_numpy(zero_copy_only=False))
    elif pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_decimal(array.type):
        values = to_float64(array)
        missing = np.isnan(values)
    else:
        raise CatalogError(f"{what} holds {array.type}, not numbers")
    missing |= np.isin(values, SENTINELS)
    values[missing] = np.nan
    return values, missing


def parse_numbers(text: pa.StringArray) -> NDArray[np.float64]:
    """Text without surrounding blanks as float64; what is null or no number is NaN."""
    try:
        return to_float64(text)
    except pa.ArrowInvalid:
        number = pc.match_substring_regex(text, _NUMBER)
        return to_float64(pc.replace_substring_regex(pc.if_else(number, text, None), r"^\+", ""))


def as_identifiers(array: pa.Array, what: str, first_row: int = 0) -> pa.StringArray:
    """Any array of identifiers as text; missing ones are null.

    Integers of any width are exact. Floats are written as integers as long as they can hold every integer.
    ``first_row`` is the row of the first value, for messages.

    Raises
    ------
    CatalogError
        If identifiers have passed through a float that could not hold them, or are no identifiers.
    """
    array = decode(array, what)
    if pa.types.is_floating(array.type):
        return _integral_identifiers(array, what, first_row)
    text = as_text(array, what)
    damaged = pc.index(pc.match_substring_regex(text, _FROM_FLOAT), True).as_py()
    if damaged >= 0:
        raise _damaged(what, first_row + damaged, text[damaged].as_py())
    return text


def to_float64(array: pa.Array) -> NDArray[np.float64]:
    """Numbers of any type as a new float64 array of shape (N,); null is NaN."""
    return np.array(array.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def _integral_identifiers(array: pa.Array, what: str, first_row: int) -> pa.StringArray:
    values = to_float64(array)
    present = np.isfinite(values)
    exact_below = _EXACT_INTEGERS[array.type.bit_width]
    fractional = present & (values != np.trunc(values))
    damaged = present & (np.abs(values) >= exact_below)
    if fractional.any():
        example = float(values[fractional][0])
        raise CatalogError(f"{what} holds {example!r}, which is no identifier: name another column with {_ID_FLAG}")
    if damaged.any():
        position = int(np.flatnonzero(damaged)[0])
        raise _damaged(what, first_row + position, f"{float(values[position]):.17g}")
    return pa.array(np.where(present, values, 0).astype(np.int64), mask=~present).cast(pa.string())


def _damaged(what: str, row: int, example: str) -> CatalogError:
    return CatalogError(
        f"{what} holds {example} in row {row}: identifiers that have passed through a float have lost digits; "
        f"take them from the source as text or 64-bit integers, or name another column with {_ID_FLAG}"
    )
