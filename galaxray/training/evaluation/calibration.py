"""Whether a model knows how wrong it is: where observed votes fall in the distributions that it predicts for them.

The probability behind a galaxy's votes is never known, only the votes; so intervals are not compared with a "true
fraction" but the whole predicted distribution of counts, a mixture of beta-binomials, with the count that came.
Counts are whole: no interval of them holds exactly 90 %. What is exact is the probability integral transform spread
over the step of the count (Czado, Gneiting & Held 2009, Biometrics 65, 1254): a count k counts as spread evenly over
[F(k - 1), F(k)]. Under the right model its mean is uniform on [0, 1], however few the votes.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
from scipy import special

from galaxray.training.evaluation.bootstrap import Floats, ratio
from galaxray.trees import DecisionTree

__all__ = [
    "LEVELS",
    "calibration_error",
    "covered",
    "pit_shares",
    "simulate_labels",
    "simulate_votes",
    "spread_into_bins",
    "vote_steps",
]

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Of the central intervals that are checked."""
TINY = 1e-9  # a step so small is a point: dividing by it gives rounding errors only
ROWS = 20_000  # galaxies worked on at once


def vote_steps(votes: npt.ArrayLike, concentrations: npt.ArrayLike, tree: DecisionTree) -> tuple[Floats, Floats]:
    """Give the step that each observed count makes in the predicted distribution of counts.

    Parameters
    ----------
    votes : array_like of int, shape (N, A)
    concentrations : array_like, shape (N, A, D)
        Dirichlet concentrations of D equally likely distributions, all positive.
    tree : DecisionTree

    Returns
    -------
    below : ndarray of float64, shape (N, A)
        Probability of fewer votes than came for the answer, given how many the question got.
    at : ndarray of float64, shape (N, A)
        Probability of just as many. Both are NaN for questions without votes.
    """
    counts, alpha = np.asarray(votes), np.asarray(concentrations, np.float64)
    below, at = np.full(counts.shape, np.nan), np.full(counts.shape, np.nan)
    for question in tree.questions:
        span = slice(question.start, question.stop)
        voters = counts[:, span].sum(1)
        rows = np.flatnonzero(voters)
        for start in range(0, len(rows), ROWS):
            some = rows[start : start + ROWS]
            a = alpha[some, span]
            b = a.sum(1, keepdims=True) - a
            k, n = np.broadcast_arrays(counts[some, span], voters[some, None])
            flat = a.reshape(-1, a.shape[2]), b.reshape(-1, a.shape[2])
            steps = _beta_binomial_steps(k.ravel().astype(np.float64), n.ravel().astype(np.float64), *flat)
            below[some, span], at[some, span] = (step.reshape(k.shape) for step in steps)
    return below, at


def covered(below: Floats, at: Floats, level: float) -> Floats:
    """Give the share of each count that lies in the central interval: in the mean ``level``, if the model is right.

    Parameters
    ----------
    below, at : ndarray
        From `vote_steps`.
    level : float
        Between 0 and 1.
    """
    return _overlap(below, at, (1 - level) / 2, (1 + level) / 2)


def pit_shares(below: Floats, at: Floats, bins: int) -> Floats:
    """Give the share of each count in each of equal bins of [0, 1], shape (..., bins): the PIT histogram's bars."""
    edges = np.linspace(0, 1, bins + 1)
    return np.stack([_overlap(below, at, low, high) for low, high in itertools.pairwise(edges)], axis=-1)


def spread_into_bins(predicted: Floats, amounts: npt.ArrayLike, bins: int) -> Floats:
    """Sum amounts by the bin that each prediction is in.

    Parameters
    ----------
    predicted : ndarray, shape (N, A)
        Fractions or probabilities in [0, 1].
    amounts : array_like, shape (N, A) or (N, 1)
    bins : int
        Equal bins of [0, 1].

    Returns
    -------
    ndarray of float64, shape (N, bins)
    """
    which = np.clip((predicted * bins).astype(np.int64), 0, bins - 1)
    each = np.broadcast_to(np.asarray(amounts, np.float64), predicted.shape)
    result = np.zeros((len(predicted), bins))
    rows = np.arange(len(predicted))
    for column in range(predicted.shape[1]):
        result[rows, which[:, column]] += each[:, column]
    return result


def calibration_error(predicted: Floats, observed: Floats, weight: Floats) -> Floats:
    """Give the mean difference of prediction and observation over bins (Guo et al. 2017, "expected calibration error").

    Parameters
    ----------
    predicted, observed, weight : ndarray, shape (..., bins)
        Sums over the members of a bin: of what was predicted, of what came, and of their weights.

    Returns
    -------
    ndarray of float64, shape (...)
    """
    return ratio(np.abs(predicted - observed).sum(-1), weight.sum(-1))


def simulate_votes(
    voters: npt.NDArray[np.integer], concentrations: npt.ArrayLike, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Draw votes on one question from what is predicted for it.

    Parameters
    ----------
    voters : ndarray of int, shape (N,)
    concentrations : array_like, shape (N, answers, D)
    rng : Generator

    Returns
    -------
    ndarray of int64, shape (N, answers)
    """
    alpha = np.asarray(concentrations, np.float64)
    member = rng.integers(alpha.shape[2], size=len(alpha))
    draws = rng.standard_gamma(alpha[np.arange(len(alpha)), :, member])
    return rng.multinomial(voters, draws / draws.sum(1, keepdims=True))


def simulate_labels(probabilities: Floats, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw a class for each galaxy from the predicted probabilities, shape (N, classes)."""
    reached = probabilities.cumsum(1) > rng.random(len(probabilities))[:, None] * probabilities.sum(1, keepdims=True)
    return np.asarray(reached.argmax(1))


def _beta_binomial_steps(k: Floats, n: Floats, a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """P(K < k) and P(K = k) for K among n votes, (M,), under the mixture over the last axis of a and b, (M, D)."""
    order = np.argsort(-k, kind="stable")  # rows that still need more steps come first
    k, n, a, b = k[order], n[order, None], a[order], b[order]
    log_p = special.betaln(a, b + n) - special.betaln(a, b)
    below, at = np.zeros(len(k)), np.zeros(len(k))
    for j in range(int(k.max(initial=0)) + 1):
        at_least = np.searchsorted(-k, -j, side="right")  # rows with k >= j
        more = np.searchsorted(-k, -j, side="left")  # rows with k > j
        log_p = log_p[:at_least]
        p = np.exp(log_p).mean(1)
        below[:more] += p[:more]
        at[more:at_least] = p[more:]
        left, a_now, b_now = n[:more] - j, a[:more] + j, b[:more] + n[:more] - j - 1
        log_p = log_p[:more] + np.log(left / (j + 1) * a_now / b_now)
    back = np.argsort(order)
    return below[back], at[back]


def _overlap(below: Floats, at: Floats, low: float, high: float) -> Floats:
    """Share of [below, below + at] that lies in [low, high]."""
    inside = np.clip(np.minimum(below + at, high) - np.maximum(below, low), 0, None)
    point = (low <= below) & (below < high)
    share = np.where(at > TINY, inside / np.maximum(at, TINY), point)
    return np.where(np.isnan(below), np.nan, share)
