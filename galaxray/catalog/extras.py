"""Further columns of a catalogue, read along with its checked rows: labels to train on, for instance.

A column keeps what it holds: whole numbers of 64 bits, floats, or text. Files that have types tell it; text is looked
at from the first row to the last before the first value is read.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from galaxray.catalog.table import Field
from galaxray.catalog.values import MISSING_TEXT, decode, is_text, parse_numbers
from galaxray.errors import CatalogError

__all__ = ["Extras"]

# What an integer or a float would not give back as it was is text: leading zeros, more digits than a float holds.
_INTEGER = r"^(?:0|-?[1-9][0-9]{0,18})$"
_IDENTIFIER = r"^[+-]?[0-9]{16,}$|^0[0-9]+$"
_KINDS = ("int64", "float64", "string")  # what holds the one holds what stands before it


class Extras:
    """Columns that are read along.

    Parameters
    ----------
    uri : str
        The catalogue, for messages.
    fields : sequence of Field
        All columns of its table.
    columns : mapping of str to str
        Names for the values, and the columns that they are read from.
    missing : sequence of str
        Values that stand for a missing one, e.g. ``-9999``, beside null, NaN, nothing, and where all else are numbers
        also ``--``, ``null`` and the like.

    Raises
    ------
    CatalogError
        If there is no column of a name (the nearest is named), or more than one.
    """

    def __init__(self, uri: str, fields: Sequence[Field], columns: Mapping[str, str], missing: Sequence[str]) -> None:
        self.uri = uri
        self.names = tuple(columns)
        self.positions = tuple(_position(uri, fields, name) for name in columns.values())
        self.record: dict[str, Any] = {"labels": dict(columns), "missing": list(missing)}
        """What decides the values, for the record of a run (JSON values)."""
        self._labels = [f"{uri}: column {fields[position].name!r}" for position in self.positions]
        self._missing_text = pa.array(["", *missing], pa.string())
        self._missing_numbers = np.array([_number(text) for text in missing])
        self._kinds: list[str] | None = None
        self._settled_for: int | None = -1

    def is_settled(self, limit: int | None) -> bool:
        """Whether it is known what each column holds in so many rows."""
        return self._settled_for == limit

    @property
    def type(self) -> pa.DataType:
        """Arrow type of the values: a struct."""
        assert self._kinds is not None, "the columns are to be looked at before they are read"
        return pa.struct(
            [pa.field(name, pa.type_for_alias(kind)) for name, kind in zip(self.names, self._kinds, strict=True)]
        )

    def settle(self, batches: Iterable[pa.RecordBatch], limit: int | None) -> None:
        """Look at rows to see what each column holds.

        Parameters
        ----------
        batches : iterable of pyarrow.RecordBatch
            The columns at ``positions``, as they are in the file.
        limit : int or None
            How many rows these are; None for all.
        """
        found: list[set[str]] = [set() for _ in self.names]
        for batch in batches:
            for kinds, values, label in zip(found, batch.columns, self._labels, strict=True):
                kinds |= self._kinds_in(values, label)
        self._kinds = [max(kinds, key=_KINDS.index) if kinds else "float64" for kinds in found]
        self._settled_for = limit

    def read(self, columns: Sequence[pa.Array]) -> pa.StructArray:
        """Values as they are kept, from columns at ``positions`` as they are in the file.

        Raises
        ------
        CatalogError
            If a value does not fit what was found when the columns were looked at.
        """
        arrays = []
        for field, values, label in zip(self.type, columns, self._labels, strict=True):
            try:
                arrays.append(self._read_column(values, field.type, label))
            except pa.ArrowInvalid as error:
                raise CatalogError(f"{label}: {error}") from error
        return pa.StructArray.from_arrays(arrays, fields=list(self.type))

    def _kinds_in(self, values: pa.Array, label: str) -> set[str]:
        values = decode(values, label)
        if pa.types.is_integer(values.type) or pa.types.is_boolean(values.type):
            return {"int64"}
        if pa.types.is_floating(values.type) or pa.types.is_decimal(values.type):
            return {"float64"}
        if not is_text(values):
            raise CatalogError(f"{label} holds {values.type}, neither numbers nor text")
        text = self._text(values, MISSING_TEXT).drop_null().unique()
        integer = pc.match_substring_regex(text, _INTEGER)
        others = text.filter(pc.invert(integer))
        try:
            text.filter(integer).cast(pa.int64())
        except pa.ArrowInvalid:  # too long for one: an identifier
            return {"string"}
        is_identifier = pc.any(pc.match_substring_regex(others, _IDENTIFIER)).as_py()
        is_number = not is_identifier and not np.isnan(parse_numbers(others)).any()
        kinds = {"int64"} if len(text) > len(others) else set()
        return kinds | ({"float64" if is_number else "string"} if len(others) else set())

    def _read_column(self, values: pa.Array, kind: pa.DataType, label: str) -> pa.Array:
        values = decode(values, label)
        if is_text(values):
            text = self._text(values, MISSING_TEXT if kind != pa.string() else ())
            if kind != pa.float64():
                return text.cast(kind)
            values = pa.array(parse_numbers(text))
        values = values.cast(kind)
        if kind == pa.string():
            return values
        numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        absent = np.isnan(numbers) | np.isin(numbers, self._missing_numbers)
        return pc.if_else(pa.array(absent), pa.scalar(None, kind), values)

    def _text(self, values: pa.Array, missing: Sequence[str]) -> pa.StringArray:
        """Text without surrounding blanks; null where it stands for a missing value."""
        text = pc.utf8_trim_whitespace(values.cast(pa.string()))
        absent = pc.is_in(text, self._missing_text)
        if missing:
            absent = pc.or_(absent, pc.is_in(pc.utf8_lower(text), pa.array(missing)))
        return pc.if_else(absent, pa.scalar(None, pa.string()), text)


def _position(uri: str, fields: Sequence[Field], name: str) -> int:
    names = [field.name for field in fields]
    found = [position for position, other in enumerate(names) if other == name]
    if len(found) > 1:
        raise CatalogError(f"{uri}: {len(found)} columns are called {name!r}; rename all but one")
    if not found:
        near = [other for other in names if other.lower() == name.lower()]
        near = near or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        shown = ", ".join(names[:40]) + (f" and {len(names) - 40} more" if len(names) > 40 else "")
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise CatalogError(f"{uri}: no column {name!r}{hint}; columns found: {shown}")
    return found[0]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
