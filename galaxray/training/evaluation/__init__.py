"""Honest figures of a model on labelled galaxies: plain functions of predictions and truth, with standard errors."""

from __future__ import annotations

from galaxray.training.evaluation.bootstrap import Estimate, as_json, estimates
from galaxray.training.evaluation.calibration import LEVELS
from galaxray.training.evaluation.classes import evaluate_classes
from galaxray.training.evaluation.regression import evaluate_regression
from galaxray.training.evaluation.votes import evaluate_votes

__all__ = ["LEVELS", "Estimate", "as_json", "estimates", "evaluate_classes", "evaluate_regression", "evaluate_votes"]
