"""What a data set holds, in a few lines for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from galaxray.training.labelled_images import LabelledImages
from galaxray.training.shards import Shards
from galaxray.training.splits import SPLITS
from galaxray.trees import DecisionTree

__all__ = ["describe_labels"]

MAX_CLASSES = 20
"""Values of a column that are listed one by one."""


def describe_labels(shards: Shards, tree: DecisionTree | None = None) -> list[str]:
    """Lines that say how many galaxies each split has, by class, by question, and with numbers.

    Parameters
    ----------
    shards : Shards
    tree : DecisionTree, optional
        Whose labels are told by question.
    """
    parts = {name: shards.split(name) for name in SPLITS}
    lines = [_line("", SPLITS), _line("galaxies", [f"{len(part):,}" for part in parts.values()])]
    of_tree = set(tree.labels) if tree is not None else set()
    for question in tree.questions if tree is not None else ():
        columns = [label for label in question.labels if label in shards.label_columns]
        if columns:
            lines.append(_line(question.name, [f"{_answered(part, columns):,}" for part in parts.values()]))
    for name in shards.label_columns:
        if name not in of_tree:
            lines += _describe_column(name, parts)
    return lines


def _answered(part: LabelledImages, columns: Sequence[str]) -> int:
    """Galaxies with votes on a question."""
    return int((np.nansum([part.label(name) for name in columns], axis=0) > 0).sum())


def _describe_column(name: str, parts: Mapping[str, LabelledImages]) -> list[str]:
    values = {split: part.label(name) for split, part in parts.items()}
    counts = {split: Counter(_texts(column)) for split, column in values.items()}
    classes = sorted({text for counter in counts.values() for text in counter if text is not None}, key=_in_order)
    known = [f"{counter.total() - counter[None]:,}" for counter in counts.values()]
    lines = [_line(name, known)]
    if len(classes) <= MAX_CLASSES:
        return lines + [_line(f"  {text}", [f"{counter[text]:,}" for counter in counts.values()]) for text in classes]
    together = np.concatenate(list(values.values()))
    if together.dtype == object:
        return [_line(f"{name} ({len(classes):,} values)", known)]
    numbers = together[~np.isnan(together)]
    described = f"{name} ({numbers.min():.4g} to {numbers.max():.4g}, mean {numbers.mean():.4g})"
    return [_line(described, known)]


def _texts(values: np.ndarray) -> list[str | None]:
    if values.dtype == object:
        return list(values)
    return [None if np.isnan(value) else f"{value:.17g}" for value in values]


def _in_order(text: str) -> tuple[bool, float, str]:
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text


def _line(name: str, values: Sequence[str]) -> str:
    return f"{name:<48}" + "".join(f"{value:>10}" for value in values)
