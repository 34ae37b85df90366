"""Figures of merit of predicted probabilities of classes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from galaxray.training.evaluation.bootstrap import REPLICATES, Estimate, Floats, estimates, ratio, sums
from galaxray.training.evaluation.calibration import calibration_error, simulate_labels, spread_into_bins
from galaxray.training.evaluation.ranks import area_under_roc

__all__ = ["evaluate_classes"]

RELIABILITY_BINS = 15  # as in Guo et al. 2017
LEAST_PROBABILITY = 1e-7  # about what float32 can tell from 0: one sure mistake must not make the log loss infinite
SIMULATIONS = 100


def evaluate_classes(
    probabilities: npt.ArrayLike,
    truth: npt.ArrayLike,
    labels: Sequence[str],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, Any]:
    """Score predicted classes.

    Parameters
    ----------
    probabilities : array_like, shape (N, C)
        They sum to 1.
    truth : array_like of int, shape (N,)
        Index of each galaxy's class.
    labels : sequence of str
        Names of the C classes.
    replicates, seed
        Of the bootstrap over galaxies.

    Returns
    -------
    dict
        ``overall`` and ``classes`` (by name), each a dict of `Estimate` and of plain numbers; ``confusion`` (counts;
        rows are true classes). What each means is in ``docs/evaluation.md``.
    """
    p, true = np.asarray(probabilities, np.float64), np.asarray(truth, np.int64)
    num, num_classes = p.shape
    is_class = true[:, None] == np.arange(num_classes)
    predicted = p.argmax(1)
    picked = predicted[:, None] == np.arange(num_classes)
    columns = _columns(p, is_class, picked)
    found = estimates(partial(_figures, columns, p, is_class), num, replicates, seed)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (true, predicted), 1)
    by_class = ("precision", "recall", "f1", "auc")
    frequencies = is_class.mean(0)
    overall = {
        "galaxies": num,
        **{name: value for name, value in found.items() if name not in by_class},
        "accuracy_constant": float(frequencies.max()),
        "log_loss_constant": float(-(frequencies[frequencies > 0] * np.log(frequencies[frequencies > 0])).sum()),
        "calibration_error_if_perfect": _floor(p, predicted, np.random.default_rng(seed)),
        "reliability_galaxies": columns["members"].sum(0),
    }
    classes = {
        label: {
            "galaxies": int(is_class[:, i].sum()),
            **{name: Estimate(found[name].value[i], found[name].error[i]) for name in by_class},
        }
        for i, label in enumerate(labels)
    }
    return {"overall": overall, "classes": classes, "confusion": confusion}


def _columns(p: Floats, is_class: npt.NDArray[np.bool_], picked: npt.NDArray[np.bool_]) -> dict[str, Floats]:
    """What each galaxy adds to the sums that figures are made of."""
    confidence = p.max(1, keepdims=True)
    right: npt.NDArray[np.bool_] = np.asarray((is_class & picked).any(1))
    return {
        "right": right.astype(np.float64),
        "log_loss": -np.log(np.clip((p * is_class).sum(1), LEAST_PROBABILITY, 1)),
        "brier": np.square(p - is_class).sum(1),
        "true": is_class.astype(np.float64),
        "picked": picked.astype(np.float64),
        "hit": (is_class & picked).astype(np.float64),
        "members": spread_into_bins(confidence, 1.0, RELIABILITY_BINS),
        "expected": spread_into_bins(confidence, confidence, RELIABILITY_BINS),
        "observed": spread_into_bins(confidence, right[:, None], RELIABILITY_BINS),
    }


def _figures(
    columns: dict[str, Floats], p: Floats, is_class: npt.NDArray[np.bool_], weights: Floats
) -> dict[str, Floats]:
    """Figures of weighted galaxies; the first axis is that of the weights' rows."""
    total = sums(columns, weights)
    num = weights.sum(1)
    recall = ratio(total["hit"], total["true"])
    auc = np.stack([area_under_roc(p[:, c], is_class[:, c], weights) for c in range(p.shape[1])], axis=1)
    return {
        "accuracy": ratio(total["right"], num),
        "balanced_accuracy": _mean_of_known(recall),
        "log_loss": ratio(total["log_loss"], num),
        "brier": ratio(total["brier"], num),
        "calibration_error": calibration_error(total["expected"], total["observed"], total["members"]),
        "auc_mean": _mean_of_known(auc),
        "precision": ratio(total["hit"], total["picked"]),
        "recall": recall,
        "f1": ratio(2 * total["hit"], total["true"] + total["picked"]),
        "auc": auc,
        "reliability_predicted": ratio(total["expected"], total["members"]),
        "reliability_observed": ratio(total["observed"], total["members"]),
    }


def _mean_of_known(values: Floats) -> Floats:
    """Mean over classes (the last axis) that have a value."""
    known = np.isfinite(values)
    return ratio(np.where(known, values, 0).sum(-1), known.sum(-1))


def _floor(p: Floats, predicted: npt.NDArray[np.int64], rng: np.random.Generator) -> float:
    """Calibration error that so many galaxies would show, if the predicted probabilities were right."""
    confidence = p.max(1, keepdims=True)
    members = spread_into_bins(confidence, 1.0, RELIABILITY_BINS).sum(0)
    expected = spread_into_bins(confidence, confidence, RELIABILITY_BINS).sum(0)
    errors = []
    for _ in range(SIMULATIONS):
        right = (simulate_labels(p, rng) == predicted)[:, None]
        errors.append(
            calibration_error(expected, spread_into_bins(confidence, right, RELIABILITY_BINS).sum(0), members)
        )
    return float(np.mean(errors))
