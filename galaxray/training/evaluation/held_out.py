"""Which galaxies a model is judged on, and the proof that it was not trained on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from galaxray.errors import ConfigError
from galaxray.training.conditions import evaluate
from galaxray.training.labels import select
from galaxray.training.shards import LabelledImages, Shards

__all__ = ["HeldOut", "held_out"]

Card = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Galaxies to judge models on."""

    images: LabelledImages
    name: str
    """``test``, or ``fold 2 of 5``."""
    notes: tuple[str, ...]
    """What a reader of the figures has to know, one sentence each."""


def held_out(
    shards: Shards,
    cards: Mapping[str, Card],
    *,
    split: str = "test",
    fold: int | None = None,
    folds: int = 5,
    where: str | None = None,
    allow_training: bool = False,
) -> HeldOut:
    """Choose galaxies, and refuse those on which a model was trained.

    Parameters
    ----------
    shards : Shards
    cards : mapping of str to mapping
        Card by name of each model; empty where it has none.
    split : {"train", "val", "test"}
        Of the data set, where no fold is named.
    fold, folds : int
        Fold of a cross-validation.
    where : str, optional
        Only galaxies that fulfil a condition.
    allow_training : bool
        Do not refuse; a note says it.

    Raises
    ------
    ConfigError
        If there is no such split, no galaxy in it, or a model was trained on one of them.
    """
    name = split if fold is None else f"fold {fold} of {folds}"
    chosen = shards.split(split) if fold is None else shards.fold(fold, folds)["test"]
    images = select(chosen, where)
    if not len(images):
        raise ConfigError(f"{shards.folder} holds no galaxies in {name}")
    notes = [
        note for model, card in cards.items() for note in _notes(shards, images, name, model, card, allow_training)
    ]
    return HeldOut(images=images, name=name, notes=tuple(dict.fromkeys(notes)))


def _notes(
    shards: Shards, images: LabelledImages, name: str, model: str, card: Card, allow_training: bool
) -> list[str]:
    training = card.get("training")
    digest = training.get("digest") if isinstance(training, Mapping) else None
    if not isinstance(training, Mapping) or not isinstance(digest, str):
        return [f"The card of {model} does not say on which galaxies it was trained, so nothing was checked."]
    if digest != shards.digest:
        return [f"{model} was trained on another data set; whether it shares galaxies with this one was not checked."]
    used = _used(shards, training)
    seen = int(np.isin(images.object_id, used["train"]).sum())
    if seen and not allow_training:
        raise ConfigError(
            f"{model} was trained on {seen:,} of the {len(images):,} galaxies in {name}: name another split or fold, "
            "or see how well it knows them with --allow-training-split"
        )
    notes = (
        [f"{model} was TRAINED on {seen:,} of these {len(images):,} galaxies: no measure of anything."] if seen else []
    )
    if np.isin(images.object_id, used["val"]).any():
        notes.append(f"The weights of {model} were chosen by their loss on some of these galaxies: a little too good.")
    return notes


def _used(shards: Shards, training: Card) -> dict[str, Any]:
    """Identifiers of the galaxies that a model was trained and validated on, as its card says."""
    fold, folds = training.get("fold"), training.get("folds")
    if isinstance(fold, int) and isinstance(folds, int):
        parts = shards.fold(fold, folds)
    else:
        # a card that says something that is no split is not to be trusted with anything
        split = training.get("split")
        parts = {name: shards.split(name) for name in ("train", "val")} if split == "train" else {}
        parts = parts or {"train": shards.all, "val": shards.all}
    where = training.get("where")
    if isinstance(where, str) and where:
        parts = {name: part.where(evaluate(where, part.label)) for name, part in parts.items()}
    return {name: part.object_id for name, part in parts.items()}
