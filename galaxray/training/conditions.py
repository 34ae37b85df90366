"""Conditions on labels, such as ``1 <= T <= 7 and Bar_Length >= 0.5``, read as data and never run as a program."""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from galaxray.errors import ConfigError

__all__ = ["evaluate"]

Column = Callable[[str], npt.NDArray[Any]]

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
MAX_CHARS = 10_000
"""Longest condition; Python's parser recurses into what it reads."""


def evaluate(condition: str, column: Column) -> npt.NDArray[np.bool_]:
    """Tell for each galaxy whether it fulfils a condition.

    The syntax is that of ``pandas.DataFrame.query``, limited to columns, comparisons, lists and their combination:
    ``1 <= T <= 7``, ``ring == 'yes' and not merger == 1``, ``T in [1, 2, 3]``, ``(T < 0) | (T > 7)``. A name that is
    no Python name stands in backticks: ```bar-dr5_strong` >= 5``. A missing value fulfils no comparison.

    Parameters
    ----------
    condition : str
    column : callable
        Gives a column by its name, float64 (N,) with NaN or object (N,) with None; raises if there is none.

    Returns
    -------
    ndarray of bool, shape (N,)

    Raises
    ------
    ConfigError
        If the condition cannot be read, names a column that is not there, or compares text with numbers.
    """
    names: list[str] = []

    def placeholder(match: re.Match[str]) -> str:
        names.append(match[1])
        return f"__column_{len(names) - 1}"

    text = re.sub(r"`([^`]*)`", placeholder, condition)
    try:
        if len(text) > MAX_CHARS:
            raise ValueError(f"of more than {MAX_CHARS} characters")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of text that is Python, if odd
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _unreadable(condition, getattr(error, "msg", None) or str(error)) from error
    return _Reader(condition, column, names).mask(tree)


class _Reader:
    def __init__(self, condition: str, column: Column, names: list[str]) -> None:
        self.condition = condition
        self.column = column
        self.names = names

    def mask(self, node: ast.expr) -> npt.NDArray[np.bool_]:
        """Evaluate what is true or false."""
        match node:
            case ast.BoolOp(op, values):
                masks = [self.mask(value) for value in values]
                combined: npt.NDArray[np.bool_] = (
                    np.all(masks, axis=0) if isinstance(op, ast.And) else np.any(masks, axis=0)
                )
                return combined
            case ast.BinOp(left, ast.BitAnd(), right):
                return self.mask(left) & self.mask(right)
            case ast.BinOp(left, ast.BitOr(), right):
                return self.mask(left) | self.mask(right)
            case ast.UnaryOp(ast.Not() | ast.Invert(), operand):
                return ~self.mask(operand)
            case ast.Compare(left, ops, rights):
                pairs = zip([left, *rights[:-1]], ops, rights, strict=True)
                steps: npt.NDArray[np.bool_] = np.all([self.compare(*pair) for pair in pairs], axis=0)
                return steps
        raise _unreadable(self.condition, f"{_name_of(node)!r} is no comparison")

    def compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> npt.NDArray[np.bool_]:
        first = self.value(left)
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(right, ast.List | ast.Tuple | ast.Set) or not isinstance(first, np.ndarray):
                raise _unreadable(self.condition, "'in' takes a column and a list, as in T in [1, 2]")
            equal = [self.compared(first, operator.eq, self.value(item)) for item in right.elts]
            found = np.any(equal, axis=0) if equal else np.zeros(len(first), dtype=bool)
            return found if isinstance(op, ast.In) else ~found & _present(first)
        if type(op) not in _COMPARISONS:
            raise _unreadable(self.condition, "only <, <=, >, >=, ==, != and in compare")
        return self.compared(first, _COMPARISONS[type(op)], self.value(right))

    def compared(self, left: Any, compare: Callable[[Any, Any], Any], right: Any) -> npt.NDArray[np.bool_]:
        columns = [side for side in (left, right) if isinstance(side, np.ndarray)]
        if not columns:
            raise _unreadable(self.condition, "a comparison needs a column")
        if _is_text(left) != _is_text(right):
            shown = next((repr(side) for side in (left, right) if not isinstance(side, np.ndarray)), "another column")
            kind = "text" if _is_text(columns[0]) else "numbers"
            raise _unreadable(self.condition, f"a column of {kind} is compared with {shown}")
        mask: npt.NDArray[np.bool_] = np.all([_present(values) for values in columns], axis=0)
        sides = [side[mask] if isinstance(side, np.ndarray) else side for side in (left, right)]
        mask[mask] = compare(*sides).astype(bool)
        return mask

    def value(self, node: ast.expr) -> Any:
        """Evaluate a column, a number or a text."""
        match node:
            case ast.Name(id=name):
                found = re.fullmatch(r"__column_(\d+)", name)
                number = int(found[1]) if found else len(self.names)
                return self.column(self.names[number] if number < len(self.names) else name)
            case ast.Constant(value=value) if isinstance(value, int | float | str) and not isinstance(value, bool):
                return value
            case ast.UnaryOp(ast.USub(), ast.Constant(value=value)) if isinstance(value, int | float):
                return -value
        raise _unreadable(self.condition, f"{_name_of(node)!r} is neither column, number nor text")


def _present(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    missing = [value is None for value in values] if values.dtype == object else np.isnan(values)
    return ~np.asarray(missing, dtype=bool)


def _is_text(side: Any) -> bool:
    return bool(side.dtype == object) if isinstance(side, np.ndarray) else isinstance(side, str)


def _name_of(node: ast.expr) -> str:
    return ast.unparse(node)[:60]


def _unreadable(condition: str, reason: str) -> ConfigError:
    return ConfigError(f"condition {condition[:200]!r}: {reason}; write it like 1 <= T <= 7 and ring == 'yes'")
