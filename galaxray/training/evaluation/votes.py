"""Figures of merit of predicted votes on a decision tree, against the votes of volunteers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from galaxray import posterior
from galaxray.training.evaluation.bootstrap import REPLICATES, Estimate, Floats, estimates, ratio, sums
from galaxray.training.evaluation.calibration import (
    LEVELS,
    calibration_error,
    covered,
    pit_shares,
    simulate_votes,
    spread_into_bins,
    vote_steps,
)
from galaxray.training.scores import AGREEMENT, MIN_VOTERS
from galaxray.trees import DecisionTree, Question

__all__ = ["constant_prediction", "evaluate_votes"]

RELIABILITY_BINS = 10
PIT_BINS = 20
SIMULATIONS = 20
Columns = dict[str, Floats]
Counts = npt.NDArray[np.int64]


def evaluate_votes(
    concentrations: npt.ArrayLike,
    votes: npt.ArrayLike,
    tree: DecisionTree,
    *,
    min_votes: int = MIN_VOTERS,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, Any]:
    """Score predicted votes, over all questions and by question.

    Parameters
    ----------
    concentrations : array_like, shape (N, A, D)
        Dirichlet concentrations of D passes or members, all positive.
    votes : array_like of int, shape (N, A)
    tree : DecisionTree
    min_votes : int
        Accuracy, errors of fractions, coverage and PIT look only at questions of a galaxy with so many votes; the
        likelihood and the reliability curve at every vote.
    replicates, seed
        Of the bootstrap over galaxies.

    Returns
    -------
    dict
        ``overall`` and ``questions`` (by name), each a dict of `Estimate`: ``accuracy``, ``nll``, ``nll_constant``,
        ``deviance``, ``deviance_constant``, ``deviance_explained``, ``mae``, ``calibration_error``, ``coverage_50``
        ... ``coverage_95``, ``pit`` and ``reliability_*`` (arrays); and plain numbers (``galaxies``...). What each
        means is in ``docs/evaluation.md``.
    """
    counts, alpha = np.asarray(votes, np.int64), np.asarray(concentrations, np.float64)
    fractions = posterior.fractions(alpha, tree)
    log_p = posterior.log_likelihood(counts, alpha, tree)
    below, at = vote_steps(counts, alpha, tree)
    rng = np.random.default_rng(seed)
    overall: Columns = {}
    floors, questions = [], {}
    for index, question in enumerate(tree.questions):
        span = slice(question.start, question.stop)
        predicted, given = fractions[:, span], counts[:, span]
        enough = given.sum(1) >= max(1, min_votes)
        columns = _columns(predicted, given, enough)
        columns |= _likelihoods(question, given, -log_p[:, index])
        columns |= _intervals(below[:, span], at[:, span], enough)
        floors.append(_floor(predicted, given.sum(1), alpha[:, span], rng))
        confusion = _confusion(predicted, given, enough)
        found = estimates(partial(_figures_of, columns), len(counts), replicates, seed)
        questions[question.name] = {
            "answers": list(question.answers),
            **_with_counts(columns, floors[-1], found),
            "balanced_accuracy": _balanced(confusion),
            "confusion": confusion,
        }
        for name, column in columns.items():
            overall[name] = overall[name] + column if name in overall else column
    every = estimates(partial(_figures_of, overall), len(counts), replicates, seed)
    return {"min_votes": min_votes, "overall": _with_counts(overall, np.sum(floors, 0), every), "questions": questions}


def constant_prediction(votes: npt.ArrayLike) -> Floats:
    """Find the one Dirichlet distribution under which the votes of all galaxies on a question are most likely.

    Parameters
    ----------
    votes : array_like of int, shape (N, answers)

    Returns
    -------
    ndarray of float64, shape (answers,)
        Concentrations.
    """
    counts = np.asarray(votes, np.int64)
    voters = counts.sum(1)
    counts, voters = counts[voters > 0], voters[voters > 0]
    # The likelihood depends on how often each number of votes came: few terms, however many galaxies.
    size = int(voters.max(initial=0)) + 1
    table = np.stack([np.bincount(column, minlength=size) for column in (*counts.T, voters)])
    k = np.arange(size)

    def loss(log_alpha: Floats) -> tuple[float, Floats]:
        alpha = np.exp(log_alpha)
        rows = np.append(alpha, alpha.sum())[:, None]
        terms = (table * (special.gammaln(k + rows) - special.gammaln(rows))).sum(1)
        slopes = (table * (special.digamma(k + rows) - special.digamma(rows))).sum(1)
        return float(terms[-1] - terms[:-1].sum()) / len(counts), alpha * (slopes[-1] - slopes[:-1]) / len(counts)

    share = (counts.sum(0) + 0.5) / (counts.sum() + 0.5 * counts.shape[1])
    found = optimize.minimize(loss, np.log(5 * share), jac=True, method="L-BFGS-B", bounds=[(-12, 12)] * len(share))
    return np.asarray(np.exp(found.x), np.float64)


def _columns(fractions: Floats, votes: Counts, enough: npt.NDArray[np.bool_]) -> Columns:
    """What each galaxy adds to the sums that figures of fractions are made of."""
    voters = votes.sum(1)
    agree = _agreeing(votes, enough)
    errors = np.abs(fractions - ratio(votes, voters[:, None])).sum(1)
    return {
        "agree": agree.astype(np.float64),
        "right": (agree & (fractions.argmax(1) == votes.argmax(1))).astype(np.float64),
        "cells": np.where(enough, votes.shape[1], 0.0),
        "error": np.where(enough, errors, 0),
        "voters": spread_into_bins(fractions, voters[:, None], RELIABILITY_BINS),
        "expected": spread_into_bins(fractions, fractions * voters[:, None], RELIABILITY_BINS),
        "observed": spread_into_bins(fractions, votes, RELIABILITY_BINS),
    }


def _likelihoods(question: Question, votes: Counts, nll: Floats) -> Columns:
    """Negative log-likelihoods of the model, of the best constant, and of the fractions that were observed."""
    voted: npt.NDArray[np.bool_] = np.asarray(votes.any(1))
    constant, saturated = np.zeros(len(votes)), np.zeros(len(votes))
    if voted.any():
        alone = DecisionTree(question.name, (replace(question, start=0),))
        alpha = np.broadcast_to(constant_prediction(votes)[None, :, None], (*votes.shape, 1))
        constant = -posterior.log_likelihood(votes, alpha, alone)[:, 0]
        saturated[voted] = -_multinomial_log_likelihood(votes[voted])
    return {
        "galaxies": voted.astype(np.float64),
        "nll": nll,
        "nll_constant": constant,
        "deviance": 2 * (nll - saturated),
        "deviance_constant": 2 * (constant - saturated),
    }


def _intervals(below: Floats, at: Floats, enough: npt.NDArray[np.bool_]) -> Columns:
    """How much of the observed counts lies in each interval, and in each bar of the PIT histogram."""
    rows = enough[:, None]
    columns = {"pit": np.where(rows, pit_shares(below, at, PIT_BINS).sum(1), 0)}
    for level in LEVELS:
        columns[_coverage(level)] = np.where(rows, covered(below, at, level), 0).sum(1)
    return columns


def _figures_of(columns: Columns, weights: Floats) -> dict[str, Floats]:
    """Figures of weighted galaxies; the first axis is that of the weights' rows."""
    total = sums(columns, weights)
    figures = {
        "accuracy": ratio(total["right"], total["agree"]),
        "nll": ratio(total["nll"], total["galaxies"]),
        "nll_constant": ratio(total["nll_constant"], total["galaxies"]),
        "deviance": ratio(total["deviance"], total["galaxies"]),
        "deviance_constant": ratio(total["deviance_constant"], total["galaxies"]),
        "deviance_explained": 1 - ratio(total["deviance"], total["deviance_constant"]),
        "mae": ratio(total["error"], total["cells"]),
        "calibration_error": calibration_error(total["expected"], total["observed"], total["voters"]),
        "pit": PIT_BINS * ratio(total["pit"], total["cells"][:, None]),
        "reliability_predicted": ratio(total["expected"], total["voters"]),
        "reliability_observed": ratio(total["observed"], total["voters"]),
    }
    return figures | {_coverage(level): ratio(total[_coverage(level)], total["cells"]) for level in LEVELS}


def _with_counts(columns: Columns, floor: Floats, found: dict[str, Estimate]) -> dict[str, Any]:
    """Figures, and how much they rest on."""
    return {
        "galaxies": int(columns["galaxies"].sum()),
        "agreeing": int(columns["agree"].sum()),
        "cells": int(columns["cells"].sum()),
        **found,
        "reliability_votes": columns["voters"].sum(0),
        "calibration_error_if_perfect": float(ratio(np.abs(floor).sum(1).mean(), columns["voters"].sum())),
    }


def _floor(fractions: Floats, voters: Counts, alpha: Floats, rng: np.random.Generator) -> Floats:
    """Expected less observed votes by bin, (simulations, bins), if the predicted distributions were right."""
    voted = voters > 0
    expected = spread_into_bins(fractions, fractions * voters[:, None], RELIABILITY_BINS).sum(0)
    simulated = (
        spread_into_bins(fractions[voted], simulate_votes(voters[voted], alpha[voted], rng), RELIABILITY_BINS).sum(0)
        for _ in range(SIMULATIONS)
    )
    return np.stack([expected - came for came in simulated])


def _agreeing(votes: Counts, enough: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Galaxies on which so many volunteers agree that their answer can be taken for right."""
    return enough & (ratio(votes.max(1), votes.sum(1)) >= AGREEMENT)


def _confusion(fractions: Floats, votes: Counts, enough: npt.NDArray[np.bool_]) -> Counts:
    """Galaxies by answer (rows: that on which volunteers agree; columns: the likeliest predicted)."""
    agree = _agreeing(votes, enough)
    table = np.zeros((votes.shape[1],) * 2, np.int64)
    np.add.at(table, (votes[agree].argmax(1), fractions[agree].argmax(1)), 1)
    return table


def _balanced(confusion: Counts) -> float:
    """Mean over answers that came of the share of right ones."""
    known = confusion.any(1)
    return float((confusion.diagonal()[known] / confusion.sum(1)[known]).mean()) if known.any() else float("nan")


def _multinomial_log_likelihood(votes: Counts) -> Floats:
    """Log-probability of votes, if the fractions observed were the true ones: no prediction can have more."""
    voters = votes.sum(1)
    choose = special.gammaln(voters + 1) - special.gammaln(votes + 1).sum(1)
    return np.asarray(choose + special.xlogy(votes, votes / voters[:, None]).sum(1))


def _coverage(level: float) -> str:
    return f"coverage_{round(100 * level)}"
