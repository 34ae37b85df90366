"""Figures made of ranks, for galaxies that count more than once or not at all: what a bootstrap needs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from galaxray.training.evaluation.bootstrap import Floats, ratio

__all__ = ["area_under_roc", "spearman"]


def area_under_roc(scores: npt.ArrayLike, positive: npt.NDArray[np.bool_], weights: Floats) -> Floats:
    """Give the probability that a galaxy of the class has a higher score than one of another class.

    Parameters
    ----------
    scores : array_like, shape (N,)
    positive : ndarray of bool, shape (N,)
        Members of the class.
    weights : ndarray of float64, shape (B, N)

    Returns
    -------
    ndarray of float64, shape (B,)
        Ties count half. NaN without members or without others.
    """
    members = weights * positive
    num, others = members.sum(1), (weights * ~positive).sum(1)
    beaten = (members * _midranks(scores, weights)).sum(1) - num**2 / 2  # members beat each other half the time
    return ratio(beaten, num * others)


def spearman(x: npt.ArrayLike, y: npt.ArrayLike, weights: Floats) -> Floats:
    """Give Spearman's correlation of ranks, shape (B,); ties get their mean rank. NaN where one is constant.

    Parameters
    ----------
    x, y : array_like, shape (N,)
    weights : ndarray of float64, shape (B, N)
    """
    total = weights.sum(1, keepdims=True)
    # the mean midrank is half of the weight
    a, b = (_midranks(values, weights) - total / 2 for values in (x, y))
    scale = np.sqrt((weights * a**2).sum(1) * (weights * b**2).sum(1))
    return ratio((weights * a * b).sum(1), scale)


def _midranks(values: npt.ArrayLike, weights: Floats) -> Floats:
    """Weight of all that is less, and half of what is equal, shape (B, N)."""
    _, group = np.unique(np.asarray(values), return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max(initial=-1) + 1))
    by_group = np.add.reduceat(weights[:, order], starts, axis=1)
    return np.asarray((by_group.cumsum(1) - by_group / 2)[:, group])
