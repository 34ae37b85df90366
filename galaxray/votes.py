"""Vote fractions by question, read from the columns of a batch or a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from galaxray.trees import Question

__all__ = ["VoteShares", "questions_of"]

Columns = Mapping[str, npt.NDArray[Any]]


def questions_of(columns: Columns) -> tuple[Question, ...]:
    """Questions of the decision tree whose columns these are, in its order."""
    questions, start = [], 0
    for name in columns:
        if name.endswith("_proportion-asked"):
            question = name.removesuffix("_proportion-asked")
            answers = tuple(
                column.removesuffix("_fraction").removeprefix(f"{question}_")
                for column in columns
                if column.startswith(f"{question}_") and column.endswith("_fraction")
            )
            questions.append(Question(question, answers, start))
            start = questions[-1].stop
    return tuple(questions)


class VoteShares:
    """Vote fractions by question, whatever a campaign calls its answers.

    Of a model for several campaigns, the first that asks a question speaks.

    Parameters
    ----------
    columns : mapping of str to ndarray, shape (N,)
        With the columns of a tree model, and maybe others.
    """

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.questions = {question.stem: question for question in reversed(questions_of(columns))}

    def __call__(self, stem: str, *answers: str) -> npt.NDArray[np.float64] | None:
        """Sum of the fractions of these answers, float64 (N,); None where the tree has none of them."""
        question = self.questions.get(stem)
        names = [f"{question.name}_{a}_fraction" for a in answers if a in question.answers] if question else []
        if not names:
            return None
        total: npt.NDArray[np.float64] = np.sum([self.columns[name] for name in names], axis=0, dtype=np.float64)
        return total
