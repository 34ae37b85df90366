"""From the labels of a data set to what a task is trained on, with one clear line for what does not fit.

::

    spec = LabelSpec(rules={"early": "T <= -1", "spiral": "1 <= T <= 7"})
    images = select(shards.split("train"), "Inclination <= 0.5")
    index = targets_for("classes", images, spec)  # -1: neither
    images, index = images.where(index >= 0), index[index >= 0]
    names = output_names("classes", images, spec)  # ("early", "spiral")
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from galaxray.errors import ConfigError
from galaxray.training.conditions import evaluate
from galaxray.training.labelled_images import LabelledImages
from galaxray.training.vote_counts import count_votes, vote_columns
from galaxray.trees import load_tree

__all__ = ["LabelSpec", "TaskName", "output_names", "select", "targets_for"]

TaskName = Literal["tree", "classes", "regression"]
MAX_CLASSES = 1000
"""A column of more different values is no class but a number or an identifier."""


class LabelSpec(BaseModel):
    """Which labels a task is trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    tree: Annotated[str | None, Field(min_length=1)] = None
    """Decision tree whose columns hold the votes, e.g. ``gz_decals_5`` (task ``tree``)."""
    column: str | None = None
    """Column with the class, text or whole numbers (task ``classes``)."""
    classes: tuple[str, ...] = ()
    """Classes in the order of the outputs; where left out, all that the column holds, sorted."""
    rules: dict[str, str] = {}
    """Condition by class, instead of a column, e.g. ``early = "T <= -1"``; what fulfils none has no class."""
    targets: tuple[str, ...] = ()
    """Columns with the numbers to predict (task ``regression``)."""


def select(images: LabelledImages, where: str | None) -> LabelledImages:
    """Galaxies that fulfil a condition (see `galaxray.training.conditions.evaluate`); all of them without one.

    Raises
    ------
    ConfigError
        If the condition cannot be read, names a column that is not there, or is fulfilled by no galaxy.
    """
    if not where:
        return images
    chosen = images.where(evaluate(where, images.label))
    if len(images) and not len(chosen):
        raise ConfigError(f"condition {where!r}: none of {len(images):,} galaxies fulfils it")
    return chosen


def output_names(task: TaskName, images: LabelledImages, spec: LabelSpec) -> tuple[str, ...]:
    """Names of a model's outputs: answers of the tree, classes, or targets.

    Parameters
    ----------
    task : {"tree", "classes", "regression"}
    images : LabelledImages
        Those to train on: they tell the classes, where ``spec`` does not.
    spec : LabelSpec

    Raises
    ------
    ConfigError
        If ``spec`` does not say what the task needs, or what it says is not there.
    """
    match task:
        case "tree":
            return load_tree(_needed(spec.tree, "a decision tree", task)).labels
        case "regression":
            targets: tuple[str, ...] = _needed(spec.targets, "columns with targets", task)
            return targets
    names = spec.classes or tuple(spec.rules)
    if not names:
        values = _class_texts(images, _needed(spec.column, "a column with the class, or rules", task))
        names = tuple(sorted({text for text in values if text is not None}, key=_numbers_first))
        if len(names) > MAX_CLASSES:
            raise ConfigError(f"column {spec.column!r} holds {len(names):,} different values: no class")
    if len(names) < 2:
        raise ConfigError(f"task classes needs two classes at least, not {', '.join(names) or 'none'}")
    return names


def targets_for(task: TaskName, images: LabelledImages, spec: LabelSpec) -> npt.NDArray[Any]:
    """What a task is trained to predict of each galaxy.

    Parameters
    ----------
    task : {"tree", "classes", "regression"}
    images : LabelledImages
    spec : LabelSpec
        For ``classes``, with its ``classes`` filled in (by `output_names`) where there are several sets of images.

    Returns
    -------
    ndarray
        ``tree``: votes, int64 (N, A), 0 where missing. ``classes``: index of the class, int64 (N,), -1 where there is
        none. ``regression``: float32 (N, T), NaN where missing.

    Raises
    ------
    ConfigError
        If a column is not there (the nearest is named), or holds what it must not; the message names column, value and
        object.
    """
    match task:
        case "tree":
            tree = load_tree(_needed(spec.tree, "a decision tree", task))
            columns = {label: images.label(name) for label, name in vote_columns(images.columns, tree).items()}
            return count_votes(columns, images.object_id, tree)
        case "regression":
            targets = _needed(spec.targets, "columns with targets", task)
            return np.stack([_numbers(images, name) for name in targets], axis=1).astype(np.float32)
    names = output_names(task, images, spec)
    return _by_rules(images, spec, names) if spec.rules else _by_column(images, spec, names)


def _by_rules(images: LabelledImages, spec: LabelSpec, names: Sequence[str]) -> npt.NDArray[np.int64]:
    if spec.column is not None or set(names) != set(spec.rules):
        given = f"column {spec.column!r}" if spec.column is not None else f"classes {', '.join(names)}"
        raise ConfigError(f"rules for the classes {', '.join(spec.rules)}, and {given}: give one or the other")
    index = np.full(len(images), -1, dtype=np.int64)
    for number, name in enumerate(names):
        mask = evaluate(spec.rules[name], images.label)
        both = mask & (index >= 0)
        if both.any():
            row = int(np.flatnonzero(both)[0])
            raise ConfigError(f"object {images.object_id[row]} fulfils the rules of {names[index[row]]} and of {name}")
        index[mask] = number
    return index


def _by_column(images: LabelledImages, spec: LabelSpec, names: Sequence[str]) -> npt.NDArray[np.int64]:
    column = _needed(spec.column, "a column with the class, or rules", "classes")
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(names)} | {None: -1}
    texts = _class_texts(images, column)
    unknown = next((row for row, text in enumerate(texts) if text not in numbers), None)
    if unknown is not None:
        near = difflib.get_close_matches(str(texts[unknown]), names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the classes are {', '.join(names[:20])}"
        raise ConfigError(f"column {column!r} holds {texts[unknown]!r} for object {images.object_id[unknown]}: {hint}")
    return np.array([numbers[text] for text in texts], dtype=np.int64)


def _class_texts(images: LabelledImages, column: str) -> list[str | None]:
    values = images.label(column)
    if values.dtype == object:
        return list(values)
    return [None if np.isnan(value) else f"{value:.17g}" for value in values]


def _numbers(images: LabelledImages, column: str) -> npt.NDArray[np.float64]:
    values = images.label(column)
    if values.dtype == object:
        wrong, reason = np.array([value is not None for value in values]), "a target is a number"
    else:
        wrong, reason = np.isinf(values), "a target is finite"
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ConfigError(f"column {column!r} holds {values[row]} for object {images.object_id[row]}: {reason}")
    return values.astype(np.float64)


def _needed(value: Any, what: str, task: str) -> Any:
    if not value:
        raise ConfigError(f"task {task} needs {what}")
    return value


def _numbers_first(text: str) -> tuple[bool, float, str]:
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text
