"""The card that travels with a model: JSON for programs, Markdown for people (after Mitchell et al. 2019)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from galaxray.display import one_line, public_settings
from galaxray.models.weights import read_card
from galaxray.report.evaluation_page import figures_in_words, markdown, table_of_parts
from galaxray.training.evaluation import Estimate, as_json

__all__ = ["complete_card", "model_page"]

TASKS = {
    "tree": "votes of volunteers on the questions of a decision tree, as concentrations of Dirichlet distributions",
    "classes": "probabilities of classes",
    "regression": "numbers",
}

UNFIT = "galaxies unlike those of its training data: other surveys, depths, scales or selections"
"""Of any model whose card says nothing."""


def complete_card(weights: Path, metrics: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write figures into a model's JSON card, and the card in Markdown beside it.

    Parameters
    ----------
    weights : Path
        The ``.safetensors`` file.
    metrics : mapping
        As `galaxray.report.evaluation_page.page` takes them.

    Returns
    -------
    tuple of Path
        ``MODEL.json``, ``MODEL.md``.

    Raises
    ------
    WeightsError
        If the model has no card.
    """
    card = read_card(weights)
    card["metrics"] = public_settings(as_json(_without_arrays(metrics)))
    for suffix, text in (
        (".json", json.dumps(card, indent=2) + "\n"),
        (".md", model_page(str(card.get("name") or weights.stem), card, metrics)),
    ):
        path = weights.with_suffix(suffix)
        aside = path.with_name(f".{path.name}.part")
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    return weights.with_suffix(".json"), weights.with_suffix(".md")


def model_page(name: str, card: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """Write a model's card in Markdown: what it is, what it was trained on, how good it is, what it is not fit for.

    Parameters
    ----------
    name : str
    card : mapping
        The JSON card.
    metrics : mapping
        As in `complete_card`.
    """
    training = card["training"] if isinstance(card.get("training"), Mapping) else {}
    notes = [f"> **{_plain(note)}**" for note in metrics["notes"]]
    unfit = card["not_fit_for"] if isinstance(card.get("not_fit_for"), list) else []
    lines = [
        f"# {_plain(name)}",
        "",
        *markdown([["", "what it is"], *_identity(card)]),
        "",
        "## Trained on",
        "",
        *(_facts(training) or ["The card does not say."]),
        "",
        "## Figures",
        "",
        *([*notes, ""] if notes else []),
        f"On {metrics['galaxies']:,} galaxies, {_plain(metrics['split'])} of `{_plain(metrics['data']['folder'])}` "
        f"(digest `{metrics['data']['digest'][:12]}`), {metrics['date']}:",
        "",
        f"    {_plain(metrics['command'])}",
        "",
        *markdown([["figure", "value"], *map(list, figures_in_words(metrics).items())]),
        "",
        *markdown(table_of_parts(metrics)),
        "",
        "After ± stands the standard error from which galaxies are in the set.",
        "",
        "## Not fit for",
        "",
        *(f"- {_plain(item)}" for item in unfit or [UNFIT]),
        "",
    ]
    return "\n".join(lines)


def _identity(card: Mapping[str, Any]) -> list[list[str]]:
    architecture, view = card["architecture"], card.get("view") or {}
    tree = card.get("tree")
    facts = {
        "predicts": TASKS.get(str(card.get("task")), str(card.get("task", card["kind"]))),
        "decision tree": str(tree["name"] if isinstance(tree, Mapping) and "name" in tree else tree or ""),
        "outputs": ", ".join(map(str, card.get("labels") or ())),
        "network": f"{architecture.get('arch', card['kind'])}, {card.get('parameters', 0):,} parameters",
        "sees": f"{view.get('size')} px, zoom {view.get('zoom', 1)}" if isinstance(view, Mapping) else "",
        "SHA-256 of the weights": str(card.get("sha256", "")),
        "galaxray": str(card.get("galaxray", "")),
    }
    return [[name, value] for name, value in facts.items() if value]


def _facts(training: Mapping[str, Any]) -> list[str]:
    """What a card says of the training, a line for each thing."""
    return [f"- {_plain(name)}: {_plain(_in_words(value))}" for name, value in training.items() if _says(value)]


def _in_words(value: Any) -> str:
    """A value of a card as one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_in_words(item)}" for key, item in value.items() if _says(item))
    if isinstance(value, list):
        return " ".join(map(_in_words, value))
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _says(value: Any) -> bool:
    return value not in (None, "", [], {})


def _without_arrays(value: Any) -> Any:
    """Figures without curves, histograms and matrices, which are in ``metrics.json``."""
    if not isinstance(value, Mapping):
        return value
    is_array = {k: np.ndim(v.value if isinstance(v, Estimate) else v) > 0 for k, v in value.items()}
    return {name: _without_arrays(item) for name, item in value.items() if not is_array[name] or isinstance(item, list)}


def _plain(text: Any) -> str:
    return one_line(str(text))
