"""A decision tree: questions, their answers, and the answers that lead to each question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from galaxray.errors import ConfigError

__all__ = ["SUFFIXES", "DecisionTree", "Question"]

SUFFIXES = ("-dr12", "-dr5", "-dr8", "-gz2", "-ukidss", "-hubble", "-candels", "-cd", "-euclid", "-jwst")
"""Campaign suffixes of Zoobot's question names: they keep votes of different campaigns apart."""


@dataclass(frozen=True)
class Question:
    """One question of a decision tree.

    Parameters
    ----------
    name : str
        With the campaign's suffix, e.g. ``bar-dr5``.
    answers : tuple of str
        In the order of the columns, e.g. ``("strong", "weak", "no")``.
    start : int
        Column of the first answer.
    asked_after : tuple of str
        Labels of the answers that lead here, e.g. ``("disk-edge-on-dr5_no",)``; empty if it is always asked.
    """

    name: str
    answers: tuple[str, ...]
    start: int
    asked_after: tuple[str, ...] = ()

    @property
    def stop(self) -> int:
        """Column after the last answer."""
        return self.start + len(self.answers)

    @property
    def labels(self) -> tuple[str, ...]:
        """Column names, ``question_answer``."""
        return tuple(f"{self.name}_{answer}" for answer in self.answers)

    @property
    def stem(self) -> str:
        """Name without the campaign's suffix, e.g. ``bar``: the same question in every campaign."""
        return next((self.name.removesuffix(s) for s in SUFFIXES if self.name.endswith(s)), self.name)


@dataclass(frozen=True)
class DecisionTree:
    """Questions of a Galaxy Zoo campaign, in the order of the model's outputs.

    Parameters
    ----------
    name : str
        E.g. ``gz_decals_5``.
    questions : tuple of Question
    suffix : str
        The campaign's suffix; empty for none or several.
    dangling : tuple of str
        Questions for which a dependency is given but which are not asked. As published, some trees have them.
    """

    name: str
    questions: tuple[Question, ...]
    suffix: str = ""
    dangling: tuple[str, ...] = ()

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Label of every column, ``question_answer``, as in Zoobot's ``label_cols``."""
        return tuple(label for question in self.questions for label in question.labels)

    def __len__(self) -> int:
        """Count the answers, that is the columns."""
        return len(self.labels)

    def question(self, name: str) -> Question:
        """Find a question by its name, with or without the campaign's suffix.

        Raises
        ------
        KeyError
            If no question, or more than one, has that name.
        """
        found = [q for q in self.questions if q.name == name] or [q for q in self.questions if q.stem == name]
        if len(found) != 1:
            raise KeyError(f"{len(found)} questions of {self.name} are called {name!r}")
        return found[0]

    def column(self, label: str) -> int:
        """Column of an answer, e.g. of ``bar-dr5_strong``."""
        return self._columns[label]

    @cached_property
    def depth(self) -> int:
        """Most questions on one way from the first to the last.

        Raises
        ------
        ConfigError
            If a dependency is missing or goes in a circle.
        """
        depths: dict[str, int] = {}
        for question in self._in_order:
            depths[question.name] = 1 + max((depths[self._owner[label]] for label in question.asked_after), default=0)
        return max(depths.values(), default=0)

    def proportion_asked(self, fractions: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Give the expected proportion of volunteers who are asked each question.

        It is the product of the vote fractions along the way to the question (Walmsley et al. 2022), and
        where several answers lead to it, the sum over them: a volunteer gives one of them only.

        Parameters
        ----------
        fractions : array_like, shape (N, A)
            Vote fractions of the answers, in the order of `labels`.

        Returns
        -------
        ndarray of float64, shape (N, Q)
            In the order of `questions`; 1 for a question that is always asked.

        Raises
        ------
        ConfigError
            If a dependency is missing or goes in a circle.
        ValueError
            If the shape is not (N, A).
        """
        fractions = np.asarray(fractions, np.float64)
        if fractions.ndim != 2 or fractions.shape[1] != len(self):
            raise ValueError(f"fractions of {self.name} have shape (N, {len(self)}), not {fractions.shape}")
        asked: dict[str, npt.NDArray[np.float64]] = {}
        for question in self._in_order:
            if not question.asked_after:
                # 0 * fraction keeps NaN of a row that was not predicted
                asked[question.name] = 1.0 + 0.0 * fractions[:, question.start]
                continue
            ways = [asked[self._owner[label]] * fractions[:, self.column(label)] for label in question.asked_after]
            asked[question.name] = np.sum(ways, axis=0)
        return np.stack([asked[question.name] for question in self.questions], axis=1)

    def validate(self) -> tuple[str, ...]:
        """Say what is wrong with the tree: one line for each fault, none for a sound tree."""
        return tuple(self._faults())

    def _faults(self) -> Iterator[str]:
        for name in self.dangling:
            yield f"a dependency is given for {name}, which is not a question"
        for label in sorted({label for label in self.labels if self.labels.count(label) > 1}):
            yield f"{label} is there more than once"
        column = 0
        for question in self.questions:
            if len(question.answers) < 2:
                yield f"{question.name} leaves no choice of answers"
            if question.start != column:
                yield f"{question.name} begins at column {question.start}, not {column}"
            column = question.stop
        for question in self.questions:
            for label in question.asked_after:
                if label not in self._owner:
                    yield f"{question.name} is asked after {label}, which is not an answer"
        resolved = {question.name for question in self._resolvable}
        missing = [q.name for q in self.questions if q.name not in resolved]
        if missing:
            yield f"no way leads to {', '.join(missing)}"

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> DecisionTree:
        """Make a tree from what a Zoobot ``Schema`` or a model card holds.

        Parameters
        ----------
        tree : mapping
            ``question_answer_pairs`` (question -> answers, with or without Zoobot's leading ``_``), ``dependencies``
            (question -> label, list of labels or None), and optionally ``name`` and ``suffix``.

        Raises
        ------
        ConfigError
            If a question has no entry in ``dependencies``. Other faults are left to `validate`.
        """
        pairs: Mapping[str, Sequence[str]] = tree["question_answer_pairs"]
        dependencies: Mapping[str, str | Sequence[str] | None] = tree["dependencies"]
        name = str(tree.get("name", "unnamed"))
        questions, start = [], 0
        for question, answers in pairs.items():
            if question not in dependencies:
                raise ConfigError(f"tree {name}: no entry for {question} in dependencies; give null if always asked")
            after = dependencies[question] or ()
            parents = (after,) if isinstance(after, str) else tuple(after)
            questions.append(Question(question, tuple(a.removeprefix("_") for a in answers), start, parents))
            start = questions[-1].stop
        dangling = tuple(question for question in dependencies if question not in pairs)
        return cls(name, tuple(questions), str(tree.get("suffix", "")), dangling)

    def to_dict(self) -> dict[str, Any]:
        """Undo `from_dict`, for a model card; dangling dependencies are left out."""
        return {
            "name": self.name,
            "suffix": self.suffix,
            "question_answer_pairs": {q.name: [f"_{answer}" for answer in q.answers] for q in self.questions},
            "dependencies": {q.name: list(q.asked_after) or None for q in self.questions},
        }

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {label: q.start + i for q in self.questions for i, label in enumerate(q.labels)}

    @cached_property
    def _owner(self) -> dict[str, str]:
        """Question to which each label belongs."""
        return {label: question.name for question in self.questions for label in question.labels}

    @cached_property
    def _resolvable(self) -> tuple[Question, ...]:
        """Questions to which a way leads, each after those it depends on."""
        done: dict[str, Question] = {}
        waiting = list(self.questions)
        while ready := [q for q in waiting if all(self._owner.get(label) in done for label in q.asked_after)]:
            done.update((q.name, q) for q in ready)
            waiting = [q for q in waiting if q.name not in done]
        return tuple(done.values())

    @cached_property
    def _in_order(self) -> tuple[Question, ...]:
        if len(self._resolvable) != len(self.questions):
            raise ConfigError(f"tree {self.name} is not a tree: {'; '.join(self.validate())}")
        return self._resolvable
