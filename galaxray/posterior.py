"""From Dirichlet concentrations to vote fractions, error bars and the proportion of volunteers asked.

A tree classifier (Walmsley et al. 2020, MNRAS 491, 1554; 2022, MNRAS 509, 3966; 2023, MNRAS 526, 4768) predicts for
each question the concentrations of a Dirichlet distribution: that of the probabilities that a volunteer gives each
answer. Dropout passes and ensemble members give several such distributions, all equally likely: the prediction is
their mixture.

Shapes: N galaxies, A answers (columns of the tree), Q questions, D distributions (members x passes).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import special

from galaxray.beta_mixture import quantile
from galaxray.trees import DecisionTree

__all__ = ["columns", "fractions", "intervals", "log_likelihood", "vote_intervals"]

Float64s = npt.NDArray[np.float64]
Float32s = npt.NDArray[np.float32]

# Elements (answers x distributions) worked on at once: what stays in a core's cache.
BLOCK = 32_768


def fractions(concentrations: npt.ArrayLike, tree: DecisionTree) -> Float64s:
    """Give the expected vote fractions: the mean of the mixture.

    Parameters
    ----------
    concentrations : array_like, shape (N, A, D)
        Positive; a row with a value that is not finite and positive has no prediction.
    tree : DecisionTree

    Returns
    -------
    ndarray of float64, shape (N, A)
        They sum to 1 for each question. NaN in rows without a prediction.
    """
    alpha = _checked(concentrations, tree)
    result = np.empty(alpha.shape[:2])
    for question in tree.questions:
        answers = alpha[:, question.start : question.stop]
        result[:, question.start : question.stop] = (answers / answers.sum(1, keepdims=True)).mean(2)
    return result


def intervals(concentrations: npt.ArrayLike, tree: DecisionTree, level: float = 0.9) -> tuple[Float64s, Float64s]:
    """Give the central credible interval of each answer's vote fraction under the equal-weight mixture.

    Each edge x solves mean_j BetaCDF(x; a_j, A_j - a_j) = (1 -+ level) / 2. Zoobot gives the median over j of the
    edges of the single distributions instead, which is too narrow where they disagree.

    The interval is that of the probability that a volunteer gives the answer. For the fraction among a number of
    votes see `vote_intervals`.

    Parameters
    ----------
    concentrations : array_like, shape (N, A, D)
        As in `fractions`.
    tree : DecisionTree
    level : float
        Probability within the interval, between 0 and 1.

    Returns
    -------
    lower, upper : ndarray of float64, shape (N, A)
        NaN in rows without a prediction.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")
    alpha = _checked(concentrations, tree)
    lower, upper = np.full(alpha.shape[:2], np.nan), np.full(alpha.shape[:2], np.nan)
    rows = np.flatnonzero(np.isfinite(alpha[:, 0, 0]))
    for question in tree.questions:
        span = slice(question.start, question.stop)
        step = max(1, BLOCK // (len(question.answers) * alpha.shape[2]))
        for first in range(0, len(rows), step):
            block = rows[first : first + step]
            lower[block, span], upper[block, span] = _question_edges(alpha[block, span], (1 - level) / 2)
    return lower, upper


def columns(concentrations: npt.ArrayLike, tree: DecisionTree, level: float = 0.9) -> dict[str, Float32s]:
    """Make the columns of the output table, under Zoobot's names.

    Parameters
    ----------
    concentrations : array_like, shape (N, A, D)
        As in `fractions`.
    tree : DecisionTree
    level : float
        Probability within the interval; it is part of the names.

    Returns
    -------
    dict of str to ndarray of float32, shape (N,)
        For each answer ``<label>_fraction``, ``<label>_90pc-lower``, ``<label>_90pc-upper``, and for each question
        ``<question>_proportion-asked``. NaN in rows without a prediction.
    """
    fraction = fractions(concentrations, tree)
    lower, upper = intervals(concentrations, tree, level)
    asked = tree.proportion_asked(fraction)
    percent = f"{100 * level:g}pc"
    table: dict[str, Float32s] = {}
    for index, question in enumerate(tree.questions):
        for column, label in enumerate(question.labels, start=question.start):
            table[f"{label}_fraction"] = fraction[:, column].astype(np.float32)
            table[f"{label}_{percent}-lower"] = lower[:, column].astype(np.float32)
            table[f"{label}_{percent}-upper"] = upper[:, column].astype(np.float32)
        table[f"{question.name}_proportion-asked"] = asked[:, index].astype(np.float32)
    return table


def log_likelihood(votes: npt.ArrayLike, concentrations: npt.ArrayLike, tree: DecisionTree) -> Float64s:
    """Give the log-probability of volunteers' votes under the mixture of Dirichlet-multinomial distributions.

    Its negative for D = 1 is the loss that Zoobot is trained with (Walmsley et al. 2022).

    Parameters
    ----------
    votes : array_like of int, shape (N, A)
        Votes for each answer.
    concentrations : array_like, shape (N, A, D)
        As in `fractions`.
    tree : DecisionTree

    Returns
    -------
    ndarray of float64, shape (N, Q)
        Natural logarithm; 0 where a question got no votes, NaN in rows without a prediction.
    """
    alpha = _checked(concentrations, tree)
    counts = np.asarray(votes, np.float64)[:, :, None]
    result = np.empty((len(alpha), len(tree.questions)))
    for index, question in enumerate(tree.questions):
        a, k = alpha[:, question.start : question.stop], counts[:, question.start : question.stop]
        total_a, total_k = a.sum(1), k.sum(1)
        each = (special.gammaln(k + a) - special.gammaln(a) - special.gammaln(k + 1)).sum(1)
        each += special.gammaln(total_k + 1) + special.gammaln(total_a) - special.gammaln(total_k + total_a)
        result[:, index] = special.logsumexp(each, axis=1) - math.log(alpha.shape[2])
    return result


def vote_intervals(
    num_votes: npt.ArrayLike, concentrations: npt.ArrayLike, tree: DecisionTree, level: float = 0.9
) -> tuple[Float64s, Float64s]:
    """Give the central interval of the fraction observed among a number of votes (mixture of beta-binomials).

    Fractions of few votes scatter more than the probability behind them: this, not `intervals`, is what observed
    fractions should be compared with. Because counts are whole, it holds `level` of them or more.

    Parameters
    ----------
    num_votes : array_like of int, shape (N, Q)
        Votes that each question got.
    concentrations : array_like, shape (N, A, D)
        As in `fractions`.
    tree : DecisionTree
    level : float
        Least probability within the interval.

    Returns
    -------
    lower, upper : ndarray of float64, shape (N, A)
        NaN in rows without a prediction and for questions without votes.
    """
    alpha = _checked(concentrations, tree)
    num = np.asarray(num_votes, np.int64)
    lower, upper = np.full(alpha.shape[:2], np.nan), np.full(alpha.shape[:2], np.nan)
    tail = (1 - level) / 2
    for index, question in enumerate(tree.questions):
        answers = alpha[:, question.start : question.stop]
        for n in np.unique(num[num[:, index] > 0, index]):
            rows = np.flatnonzero((num[:, index] == n) & np.isfinite(alpha[:, 0, 0]))
            for column in range(question.start, question.stop):
                a = alpha[rows, column]
                cdf = np.cumsum(_vote_probabilities(int(n), a, answers[rows].sum(1) - a), axis=1)
                lower[rows, column] = (cdf < tail).sum(1) / n
                upper[rows, column] = (cdf < 1 - tail).sum(1) / n
    return lower, upper


def _vote_probabilities(n: int, a: Float64s, b: Float64s) -> Float64s:
    """Probability of 0...n votes for an answer, shape (N, n + 1), under the mixture over the last axis of a and b."""
    k = np.arange(n + 1)
    log_choose = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
    a, b = a[:, None], b[:, None]
    log_p = log_choose[:, None] + special.betaln(a + k[:, None], b + (n - k)[:, None]) - special.betaln(a, b)
    return np.asarray(np.exp(log_p).mean(2))


def _checked(concentrations: npt.ArrayLike, tree: DecisionTree) -> Float64s:
    """Concentrations as float64 with every value of a row without prediction NaN."""
    alpha = np.array(concentrations, np.float64)
    if alpha.ndim != 3 or alpha.shape[1] != len(tree) or alpha.shape[2] == 0:
        raise ValueError(f"concentrations of {tree.name} have shape (N, {len(tree)}, D), not {alpha.shape}")
    alpha[~(np.isfinite(alpha) & (alpha > 0)).all((1, 2))] = np.nan
    return alpha


def _question_edges(alpha: Float64s, tail: float) -> tuple[Float64s, Float64s]:
    """Edges of all answers of one question; alpha has shape (n, k, D)."""
    n, k, d = alpha.shape
    a = np.ascontiguousarray(alpha.transpose(2, 0, 1))
    total = a.sum(2, keepdims=True)
    b = total - a
    log_beta = special.gammaln(a) + special.gammaln(b) - special.gammaln(total)
    a, b, log_beta = a.reshape(d, n * k), b.reshape(d, n * k), log_beta.reshape(d, n * k)
    lower = quantile(a, b, log_beta, tail).reshape(n, k)
    # the upper edge of an answer is the lower edge of "not this answer", and of two answers each is the other's not
    upper = lower[:, ::-1] if k == 2 else quantile(b, a, log_beta, tail).reshape(n, k)
    return lower, 1 - upper
