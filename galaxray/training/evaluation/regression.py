"""Figures of merit of predicted numbers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from galaxray.training.evaluation.bootstrap import REPLICATES, Floats, estimates, ratio, sums
from galaxray.training.evaluation.ranks import spearman

__all__ = ["evaluate_regression"]


def evaluate_regression(
    predicted: npt.ArrayLike,
    truth: npt.ArrayLike,
    targets: Sequence[str],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, Any]:
    """Score predicted numbers, target by target.

    Parameters
    ----------
    predicted : array_like, shape (N, T)
    truth : array_like, shape (N, T)
        NaN where it is not known: that galaxy does not count for that target.
    targets : sequence of str
        Names of the T targets.
    replicates, seed
        Of the bootstrap over galaxies.

    Returns
    -------
    dict
        ``targets``: by name, ``galaxies``, ``deviation`` (standard deviation of the truth: the RMSE of the best
        constant) and as `Estimate` ``mae``, ``rmse``, ``bias``, ``r2``, ``spearman``. ``overall``: means over targets
        that do not depend on units, ``r2`` and ``spearman``, and with one unit for all (fractions) ``mae``.
    """
    p, y = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    by_target = {}
    for column, target in enumerate(targets):
        known = np.isfinite(y[:, column])
        mine, true = p[known, column], y[known, column]
        found = estimates(partial(_figures, mine, true), len(true), replicates, seed) if len(true) else {}
        deviation = float(true.std()) if len(true) else float("nan")
        by_target[target] = {"galaxies": len(true), "deviation": deviation, **found}
    # one drawing of the galaxies for all targets: their errors are not independent
    overall = estimates(partial(_means, p, y), len(y), replicates, seed)
    return {"overall": {"galaxies": len(y), **overall}, "targets": by_target}


def _means(p: Floats, y: Floats, weights: Floats) -> dict[str, Floats]:
    """Means over the targets for which there are galaxies."""
    known = [np.isfinite(column) for column in y.T]
    each = [
        _figures(p[rows, column], y[rows, column], weights[:, rows]) for column, rows in enumerate(known) if rows.any()
    ]
    names = ("mae", "r2", "spearman")
    return {name: np.mean([figures[name] for figures in each], axis=0) for name in names} if each else {}


def _figures(p: Floats, y: Floats, weights: Floats) -> dict[str, Floats]:
    """Figures of one target for weighted galaxies; the first axis is that of the weights' rows."""
    difference, centred = p - y, y - y.mean()
    columns = {
        "absolute": np.abs(difference),
        "squared": difference**2,
        "difference": difference,
        "y": centred,
        "y2": centred**2,
    }
    total, num = sums(columns, weights), weights.sum(1)
    variation = total["y2"] - ratio(total["y"] ** 2, num)
    return {
        "mae": ratio(total["absolute"], num),
        "rmse": np.sqrt(ratio(total["squared"], num)),
        "bias": ratio(total["difference"], num),
        "r2": 1 - ratio(total["squared"], variation),
        "spearman": spearman(p, y, weights),
    }
