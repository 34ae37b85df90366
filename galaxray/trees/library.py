"""The decision trees of Galaxy Zoo's campaigns, kept as data in ``data/*.json``.

Each file gives the tree as Zoobot codes it (``galaxy_datasets.shared.label_metadata``), which is what a checkpoint was
trained with, and under ``corrected`` the questions whose place differs in the tree that volunteers really saw:

- DECaLS, DESI, CANDELS, Cosmic Dawn, Euclid, JWST: merging is not asked after an artifact.
- GZ2 and UKIDSS: arms, bar and bulge size are asked only if the disk is not edge-on; something-odd not of an artifact.
- Hubble and CANDELS: winding and number of arms are asked only if there are arms.

Corrections change the proportion asked; labels and their order are the same.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from galaxray.errors import ConfigError
from galaxray.trees.tree import DecisionTree

__all__ = ["load_tree", "tree_from_labels", "tree_names"]

DATA = files("galaxray.trees") / "data"
COMBINED = "combined.json"


@cache
def _campaigns() -> dict[str, dict[str, Any]]:
    paths = sorted((p for p in DATA.iterdir() if p.name != COMBINED), key=lambda p: p.name)
    return {p.name.removesuffix(".json"): json.loads(p.read_text("utf-8")) for p in paths if p.name.endswith(".json")}


@cache
def _combined() -> dict[str, dict[str, Any]]:
    combined: dict[str, dict[str, Any]] = json.loads((DATA / COMBINED).read_text("utf-8"))
    return combined


def tree_names(*, combined: bool = False) -> tuple[str, ...]:
    """Names for `load_tree`: the 14 campaigns, and with `combined` also the sets that Zoobot trains on together."""
    return tuple(_campaigns()) + (tuple(_combined()) if combined else ())


@cache
def load_tree(name: str, *, corrected: bool = False) -> DecisionTree:
    """Load a decision tree.

    Parameters
    ----------
    name : str
        One of `tree_names`, e.g. ``gz_decals_5``, or Zoobot's name for it, e.g. ``decals_dr5_ortho``.
    corrected : bool
        Dependencies as volunteers met them, instead of as Zoobot codes them.

    Raises
    ------
    ConfigError
        If there is no such tree; the message names the nearest.
    """
    key = _resolve(name)
    if key in _combined():
        parts = [load_tree(part, corrected=corrected) for part in _combined()[key]["parts"]]
        return _join(key, parts)
    return _build(key, _campaigns()[key], corrected)


def tree_from_labels(labels: Sequence[str]) -> DecisionTree:
    """Find the tree, as published, that has exactly these columns in this order; suffixes may have been dropped.

    Raises
    ------
    ConfigError
        If no tree has these columns.
    """
    wanted = tuple(labels)
    trees = [load_tree(name) for name in tree_names(combined=True)]
    for tree in (*trees, *(_build(name, data | {"suffix": ""}, False) for name, data in _campaigns().items())):
        if tree.labels == wanted:
            return tree
    nearest = max(trees, key=lambda tree: len(set(tree.labels) & set(wanted)))
    shared = len(set(nearest.labels) & set(wanted))
    raise ConfigError(
        f"no decision tree has these {len(wanted)} columns in this order; "
        f"{nearest.name} shares {shared} of its {len(nearest)}"
    )


def _resolve(name: str) -> str:
    known: dict[str, str] = {}
    for key, data in (_campaigns() | _combined()).items():
        known |= dict.fromkeys([key, *data["aliases"]], key)
    wanted = name.lower().replace("-", "_")
    if wanted in known:
        return known[wanted]
    near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
    hint = f"do you mean {near[0]!r}?" if near else "one of " + ", ".join(tree_names(combined=True))
    raise ConfigError(f"no decision tree is called {name!r}; {hint}")


def _build(name: str, data: Mapping[str, Any], corrected: bool) -> DecisionTree:
    suffix: str = data["suffix"]
    after = {question: entry["asked_after"] for question, entry in data["questions"].items()}
    after |= data["corrected"] if corrected else data.get("dangling", {})

    def full(label: str) -> str:
        question, answer = label.split("_")
        return f"{question}{suffix}_{answer}"

    return DecisionTree.from_dict(
        {
            "name": name,
            "suffix": suffix,
            "question_answer_pairs": {q + suffix: entry["answers"] for q, entry in data["questions"].items()},
            "dependencies": {q + suffix: [full(label) for label in parents] for q, parents in after.items()},
        }
    )


def _join(name: str, parts: Sequence[DecisionTree]) -> DecisionTree:
    dicts = [part.to_dict() for part in parts]
    return DecisionTree.from_dict(
        {
            "name": name,
            "question_answer_pairs": {q: a for part in dicts for q, a in part["question_answer_pairs"].items()},
            "dependencies": {q: after for part in dicts for q, after in part["dependencies"].items()}
            | {q: None for part in parts for q in part.dangling},
        }
    )
