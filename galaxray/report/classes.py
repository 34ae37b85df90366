"""Sort galaxies into classes that a person recognises, from whatever the model predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from galaxray.report.sample import Rows, num_rows
from galaxray.trees import Question
from galaxray.votes import VoteShares, questions_of

__all__ = ["Grouping", "group", "questions_of"]

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Grouping:
    """Classes of some rows.

    Attributes
    ----------
    names : tuple of str
        In the order in which they are shown.
    member : ndarray of int, shape (N,)
        Index of each row's class, -1 for a row without a prediction.
    strength : ndarray of float, shape (N,)
        Probability of that class.
    """

    names: tuple[str, ...]
    member: npt.NDArray[np.int64]
    strength: Floats

    def count(self, index: int) -> int:
        """Count the rows of a class."""
        return int((self.member == index).sum())


def group(rows: Rows) -> Grouping:
    """Sort rows into classes: morphology from a tree, else its first question, else labels, else all in one."""
    questions = questions_of(rows)
    if questions:
        return _strongest(_morphology(VoteShares(rows)) or _answers(rows, questions[0]))
    if "label" in rows:
        names = tuple(sorted({label for label in rows["label"] if label is not None}))
        member = np.array([names.index(label) if label is not None else -1 for label in rows["label"]], np.int64)
        strength = np.asarray(rows.get("confidence", np.ones(len(member))), np.float64)
        return Grouping(names, member, strength)
    ok = rows["status"] == "ok" if "status" in rows else np.zeros(num_rows(rows), bool)
    return Grouping(("Galaxies",), np.where(ok, 0, -1), np.ones(len(ok)))


def _answers(rows: Rows, question: Question) -> dict[str, Floats]:
    columns = zip(question.answers, question.labels, strict=True)
    return {f"{question.stem}: {answer}": rows[f"{label}_fraction"] for answer, label in columns}


def _strongest(classes: Mapping[str, Floats]) -> Grouping:
    probability = np.nan_to_num(np.stack(list(classes.values()), axis=1), nan=-1.0)
    member = probability.argmax(axis=1)
    strength = probability[np.arange(len(member)), member]
    return Grouping(tuple(classes), np.where(strength < 0, -1, member), strength)


def _morphology(share: VoteShares) -> dict[str, Floats]:
    """Joint probability of each class; empty where the tree does not begin with smooth or featured."""
    smooth = share("smooth-or-featured", "smooth")
    featured = share("smooth-or-featured", "featured-or-disk", "features")
    if smooth is None or featured is None:
        return {}
    classes: dict[str, Floats] = {}
    merging = share("merging", "merger", "both", "major-disturbance")
    if merging is not None:
        # asked of smooth and featured galaxies alike, beside the questions about their shape
        classes["Merger or major disturbance"] = merging * (smooth + featured)
        smooth, featured = smooth * (1 - merging), featured * (1 - merging)
    shapes = {
        "Smooth, round": share("how-rounded", "round", "completely"),
        "Smooth, in between": share("how-rounded", "in-between"),
        "Smooth, cigar-shaped": share("how-rounded", "cigar-shaped", "cigar"),
    }
    known: dict[str, Floats] = {name: smooth * shape for name, shape in shapes.items() if shape is not None}
    artifact = share("smooth-or-featured", "artifact", "problem", "star-artifact-zoom")
    return (
        (known or {"Smooth": smooth})
        | _disks(featured, share)
        | classes
        | ({} if artifact is None else {"Star or artifact": artifact})
    )


def _disks(featured: Floats, share: VoteShares) -> dict[str, Floats]:
    classes: dict[str, Floats] = {}
    clumpy, edge_on = share("clumpy-appearance", "yes"), share("disk-edge-on", "yes")
    if clumpy is not None:
        classes["Clumpy"] = featured * clumpy
        featured = featured * (1 - clumpy)
    if edge_on is not None:
        classes["Disk, edge-on"] = featured * edge_on
        featured = featured * (1 - edge_on)
    spiral, bar = share("has-spiral-arms", "yes"), share("bar", "yes", "strong", "weak")
    if spiral is None:
        return classes | {"Featured": featured}
    if bar is None:
        return classes | {"Spiral": featured * spiral, "Disk without arms": featured * (1 - spiral)}
    return classes | {
        "Spiral, barred": featured * spiral * bar,
        "Spiral, unbarred": featured * spiral * (1 - bar),
        "Disk without arms": featured * (1 - spiral),
    }
