"""Standard errors of any figure, by drawing the galaxies again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["REPLICATES", "Estimate", "Floats", "as_json", "estimates", "ratio", "sums"]

Floats = npt.NDArray[np.float64]
Figures = Callable[[Floats], Mapping[str, Floats]]

REPLICATES = 200
"""Standard errors from so many are themselves good to 5 %."""
BLOCK = 4_000_000  # weights held at once


class Estimate(NamedTuple):
    """A figure and its standard error; arrays where the figure is one."""

    value: Any
    error: Any


def estimates(figures: Figures, num: int, replicates: int = REPLICATES, seed: int = 0) -> dict[str, Estimate]:
    """Compute figures of a set of galaxies, with the standard errors that come from which galaxies are in it.

    The set is drawn again many times: each galaxy counts 0, 1, 2... times by a Poisson distribution of mean 1 (Poisson
    bootstrap: Efron & Tibshirani 1993; Chamandy et al. 2012). Everything of a galaxy is drawn together, so that votes
    on its questions need not be independent.

    Parameters
    ----------
    figures : callable
        Takes weights of the galaxies, float64 (B, N), and gives for each name an array (B, ...).
    num : int
        Number of galaxies N.
    replicates : int
    seed : int
        The same seed gives the same errors.

    Returns
    -------
    dict of str to Estimate
        The value is that of weights 1; the error is NaN where fewer than two replicates have a value.
    """
    values = {name: np.asarray(value)[0] for name, value in figures(np.ones((1, num))).items()}
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[Floats]] = {name: [] for name in values}
    step = max(1, BLOCK // max(num, 1))
    for start in range(0, replicates, step):
        weights = rng.poisson(1.0, (min(step, replicates - start), num)).astype(np.float64)
        for name, value in figures(weights).items():
            drawn[name].append(np.asarray(value))
    return {name: Estimate(value, _spread(np.concatenate(drawn[name]))) for name, value in values.items()}


def sums(columns: Mapping[str, npt.NDArray[Any]], weights: Floats) -> dict[str, Floats]:
    """Weighted sums over galaxies of columns of shape (N,) or (N, k): shape (B,) or (B, k)."""
    return {name: np.asarray(weights @ column) for name, column in columns.items()}


def ratio(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Floats:
    """Divide; NaN where there is nothing to divide by."""
    above, below = np.broadcast_arrays(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))
    result: Floats = np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)
    return result


def as_json(value: Any) -> Any:
    """Figures as plain JSON values: NaN, which JSON lacks, becomes null."""
    match value:
        case Estimate():
            return {"value": as_json(value.value), "error": as_json(value.error)}
        case Mapping():
            return {str(name): as_json(item) for name, item in value.items()}
        case np.ndarray() | np.generic():
            return as_json(value.tolist())
        case list() | tuple():
            return [as_json(item) for item in value]
        case float():
            return value if np.isfinite(value) else None
        case _:
            return value


def _spread(drawn: Floats) -> Floats:
    """Standard deviation over replicates (axis 0) that have a value."""
    known = np.isfinite(drawn)
    count = known.sum(0)
    mean = ratio(np.where(known, drawn, 0).sum(0), count)
    squares = np.where(known, np.square(drawn - mean), 0).sum(0)
    return np.asarray(np.sqrt(ratio(squares, np.maximum(count - 1, 0))))
