"""A classifier and labelled images: what it predicts, what is true, and the figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from galaxray.errors import ConfigError, RunError
from galaxray.models import Classifier
from galaxray.training.evaluation.bootstrap import REPLICATES
from galaxray.training.evaluation.classes import evaluate_classes
from galaxray.training.evaluation.regression import evaluate_regression
from galaxray.training.evaluation.votes import evaluate_votes
from galaxray.training.labels import LabelSpec, TaskName, targets_for
from galaxray.training.scores import MIN_VOTERS
from galaxray.training.shards import LabelledImages
from galaxray.training.vote_counts import count_votes, vote_columns
from galaxray.trees import DecisionTree

__all__ = ["Judged", "join", "judge", "metrics_of", "spec_of"]

BATCH = 256  # rows of a memory map that are copied at once


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Predictions of N labelled galaxies, and the truth."""

    task: TaskName
    labels: tuple[str, ...]
    tree: DecisionTree | None
    object_id: npt.NDArray[np.object_]
    predictions: npt.NDArray[np.float32]
    """(N, A, D), as `galaxray.models.Classifier.predict` gives them; all finite."""
    truth: npt.NDArray[Any]
    """As `galaxray.training.labels.targets_for` gives it."""
    unpredicted: int = 0
    """Galaxies left out, for which the model gave no numbers."""

    def __len__(self) -> int:
        """Count the galaxies."""
        return len(self.object_id)

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """Probabilities or values, mean over passes and members, (N, A)."""
        mean: npt.NDArray[np.float64] = self.predictions.mean(axis=2, dtype=np.float64)
        return mean


def spec_of(card: Mapping[str, Any], given: LabelSpec) -> LabelSpec:
    """Labels to compare with: those that the model was trained on, as its card says, and what is given instead.

    Parameters
    ----------
    card : mapping
        Empty where there is none.
    given : LabelSpec
        What is not empty in it counts.
    """
    training = card.get("training")
    settings = training.get("settings") if isinstance(training, Mapping) else None
    known = {k: v for k, v in settings.items() if k in LabelSpec.model_fields} if isinstance(settings, Mapping) else {}
    chosen = {name: value for name, value in given.model_dump().items() if value}
    if {"column", "rules"} & chosen.keys():  # one takes the place of the other
        known = {name: value for name, value in known.items() if name not in ("column", "rules", "classes")}
    return LabelSpec(**{**known, **chosen})


def judge(
    model: Classifier,
    images: LabelledImages,
    spec: LabelSpec,
    cache: Path,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> Judged:
    """Predict labelled images.

    Parameters
    ----------
    model : Classifier
    images : LabelledImages
    spec : LabelSpec
    cache : Path
        Folder for decoded images.
    on_rows : callable
        Told after every few images how many are predicted.

    Raises
    ------
    ConfigError
        If the labels do not fit the model, or there are none.
    """
    truth = _truth(model, images, spec)
    known = _has_label(model.task, truth)
    if not known.any():
        raise ConfigError(f"none of {len(images):,} galaxies has a label to compare with")
    images, truth = images.where(known), truth[known]
    pixels = images.pixels(model.view, cache)
    parts = []
    for start in range(0, len(pixels), BATCH):
        rows = np.arange(start, min(start + BATCH, len(pixels)))
        parts.append(model.predict(np.ascontiguousarray(pixels[rows[0] : rows[-1] + 1]), rows))
        on_rows(int(rows[-1]) + 1)
    predictions = np.concatenate(parts)
    good = np.isfinite(predictions).all((1, 2))
    if not good.any():
        raise RunError("the model gives no finite number for any image")
    return Judged(
        task=model.task,
        labels=model.labels,
        tree=model.tree,
        object_id=images.object_id[good],
        predictions=predictions[good],
        truth=truth[good],
        unpredicted=int((~good).sum()),
    )


def join(parts: Sequence[Judged]) -> Judged:
    """Put the galaxies of several models together, as those of a cross-validation.

    Raises
    ------
    ConfigError
        If they predict different things, or a galaxy is there twice.
    """
    first = parts[0]
    if any((part.task, part.labels) != (first.task, first.labels) for part in parts):
        raise ConfigError("the models predict different things: their figures make no whole")
    object_id = np.concatenate([part.object_id for part in parts])
    if len(set(object_id)) < len(object_id):
        raise ConfigError("two of the models are of the same fold: a galaxy would count twice")
    return replace(
        first,
        object_id=object_id,
        predictions=np.concatenate([part.predictions for part in parts]),
        truth=np.concatenate([part.truth for part in parts]),
        unpredicted=sum(part.unpredicted for part in parts),
    )


def metrics_of(
    judged: Judged, *, min_votes: int = MIN_VOTERS, replicates: int = REPLICATES, seed: int = 0
) -> dict[str, Any]:
    """Compute the figures of a task: see `evaluate_votes`, `evaluate_classes`, `evaluate_regression`."""
    options = {"replicates": replicates, "seed": seed}
    if judged.tree is not None:
        return evaluate_votes(judged.predictions, judged.truth, judged.tree, min_votes=min_votes, **options)
    score = evaluate_classes if judged.task == "classes" else evaluate_regression
    return score(judged.mean, judged.truth, judged.labels, **options)


def _truth(model: Classifier, images: LabelledImages, spec: LabelSpec) -> npt.NDArray[Any]:
    if model.tree is not None:
        columns = {label: images.label(name) for label, name in vote_columns(images.columns, model.tree).items()}
        return count_votes(columns, images.object_id, model.tree)
    if model.task == "classes":
        return targets_for("classes", images, spec.model_copy(update={"classes": model.labels}))
    targets = spec.targets or model.labels
    if len(targets) != len(model.labels):
        raise ConfigError(f"{len(targets)} targets ({', '.join(targets)}) for the model's {len(model.labels)} outputs")
    return targets_for("regression", images, spec.model_copy(update={"targets": targets}))


def _has_label(task: TaskName, truth: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    if task == "classes":
        return np.asarray(truth >= 0)
    return np.asarray((truth > 0).any(1) if task == "tree" else np.isfinite(truth).any(1))
