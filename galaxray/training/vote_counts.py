"""Votes of volunteers, checked against the decision tree that they answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from galaxray.errors import ConfigError
from galaxray.trees import DecisionTree, Question

__all__ = ["count_votes", "vote_columns"]


def vote_columns(columns: Sequence[str], tree: DecisionTree) -> dict[str, str]:
    """Find the columns with the votes on a tree.

    A table of one campaign may leave its suffix out (``bar_strong`` for ``bar-dr5_strong``). A question that has no
    column at all was not asked.

    Parameters
    ----------
    columns : sequence of str
        Names that a table has.
    tree : DecisionTree

    Returns
    -------
    dict of str to str
        Column by label of the tree, for the questions that were asked.

    Raises
    ------
    ConfigError
        If there is no question at all, or some answers of one are missing.
    """
    there = set(columns)
    one_campaign = len({question.stem for question in tree.questions}) == len(tree.questions)
    found: dict[str, str] = {}
    for question in tree.questions:
        plain = [f"{question.stem}_{answer}" for answer in question.answers]
        named = {
            label: label if label in there else other
            for label, other in zip(question.labels, plain, strict=True)
            if label in there or (one_campaign and other in there)
        }
        missing = [label for label in question.labels if label not in named]
        if named and missing:
            raise ConfigError(
                f"question {question.name} of {tree.name} has column {next(iter(named.values()))!r} but none for "
                f"{', '.join(missing)}: all answers are needed, with 0 where nobody gave one"
            )
        found |= named
    if not found:
        raise ConfigError(f"no column has votes on {tree.name}: they are called {', '.join(tree.labels[:3])}, ...")
    return found


def count_votes(
    columns: Mapping[str, npt.NDArray[Any]], object_ids: npt.NDArray[np.object_] | Sequence[str], tree: DecisionTree
) -> npt.NDArray[np.int64]:
    """Votes as whole numbers, in the order of the tree's labels.

    Parameters
    ----------
    columns : mapping of str to ndarray, shape (N,)
        Votes by label of the tree; NaN counts as none, as does a label that is left out.
    object_ids : sequence of str, length N
        For messages.
    tree : DecisionTree

    Returns
    -------
    ndarray of int64, shape (N, A)

    Raises
    ------
    ConfigError
        If a column holds text, or a number that is negative or no whole number; if more volunteers answered a question
        than took part. The message names column, value and object.
    """
    votes = np.zeros((len(object_ids), len(tree)), dtype=np.int64)
    for position, label in enumerate(tree.labels):
        if label not in columns:
            continue
        values = columns[label]
        if values.dtype == object:
            words = np.array([value is not None and not _is_number(value) for value in values])
            numbers = np.array([value is not None for value in values])
            _refuse(label, values, words if words.any() else numbers, object_ids, "votes are numbers")
            values = np.full(len(values), np.nan)
        counts = np.where(np.isnan(values), 0.0, values)
        _refuse(label, values, counts < 0, object_ids, "votes count from 0 on (a missing value? --missing names it)")
        whole = np.isfinite(counts) & (counts == np.round(counts)) & (counts < 2**53)
        hint = "votes are whole numbers; fractions are targets of a regression"
        _refuse(label, values, ~whole, object_ids, hint)
        votes[:, position] = counts
    _require_voters(votes, object_ids, tree)
    return votes


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _refuse(
    label: str,
    values: npt.NDArray[Any],
    wrong: npt.NDArray[np.bool_],
    object_ids: npt.NDArray[np.object_] | Sequence[str],
    reason: str,
) -> None:
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        value = values[row]
        shown = repr(value) if isinstance(value, str) else f"{value:g}"
        raise ConfigError(f"column {label!r} holds {shown} for object {object_ids[row]}: {reason}")


def _require_voters(
    votes: npt.NDArray[np.int64], object_ids: npt.NDArray[np.object_] | Sequence[str], tree: DecisionTree
) -> None:
    """Nobody answers a question without having answered one that everybody is asked."""
    for question in tree.questions:
        always = [q for q in tree.questions if not q.asked_after and _campaign(q) == _campaign(question)]
        if not question.asked_after or not always:
            continue
        voters = np.max([votes[:, q.start : q.stop].sum(axis=1) for q in always], axis=0)
        answers = votes[:, question.start : question.stop].sum(axis=1)
        # where the first question itself is missing, nothing can be said
        wrong = (answers > voters) & (voters > 0)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ConfigError(
                f"object {object_ids[row]} has {answers[row]} answers to {question.name} from {voters[row]} volunteers "
                f"({', '.join(q.name for q in always)}): columns {', '.join(question.labels)} do not fit"
            )


def _campaign(question: Question) -> str:
    return question.name.removeprefix(question.stem)
