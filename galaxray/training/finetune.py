"""Finetuning from a data set to a model file that a run, the service and evaluation load by name.

What is in the folder: `galaxray.training.training_folder`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from galaxray.images import View
from galaxray.training.encoders import StartEncoder, find_encoder
from galaxray.training.finetune_task import Examples, FinetuneConfig, FinetuneTask
from galaxray.training.labels import LabelSpec, TaskName, output_names, select, targets_for
from galaxray.training.loop import Trainer
from galaxray.training.shards import LabelledImages, open_shards
from galaxray.training.task import Report
from galaxray.training.training_folder import FREE, TrainingFolder, decoded, device_named
from galaxray.training.workers import ALONE, Workers
from galaxray.trees import DecisionTree, load_tree

__all__ = ["FinetuneSettings", "finetune", "require_trainable"]

SPLITS = ("train", "val")
SETTINGS = "finetune.json"


class FinetuneSettings(FinetuneConfig, LabelSpec):
    """What is trained, on what, from where."""

    data: str
    """Data set of labelled images, made by pipelines/fetch_cutouts.py: a folder, or s3://."""
    output: Path
    """Folder for the model and the checkpoints, on a disk that all workers share."""
    task: TaskName
    """``tree``: votes on a Galaxy Zoo decision tree; ``classes``; ``regression``: any numbers."""
    where: str | None = None
    """Only these galaxies, e.g. "T >= 1 and T <= 7"."""
    encoder: str = "builtin:classifier"
    """What to start from: an architecture of timm for random weights (convnext_nano), a model file of ours, a Zoobot
    checkpoint, the file of a timm encoder, or hf_hub:OWNER/NAME."""
    arch: str | None = None
    """timm architecture of that file, where it does not tell."""
    fold: Annotated[int, Field(ge=0)] | None = None
    """Cross-validation: leave this fold out for testing, validate on the next; the data set's own splits otherwise."""
    folds: Annotated[int, Field(ge=3)] = 5
    """Number of folds, where one is named."""
    view_size: Annotated[int, Field(gt=0)] | None = None
    """Width and height in pixels of what the model sees; that of the encoder's model if left out."""
    view_zoom: Annotated[float, Field(ge=1)] | None = None
    """Enlargement before that; that of the encoder's model if left out."""
    device: str = "auto"
    """``auto`` takes a GPU if there is one; cpu, cuda."""
    cache: Path = Path("~/.cache/galaxray/pixels")
    """Where decoded images are kept, on a local disk."""


def finetune(settings: FinetuneSettings, report: Callable[[str, Report], None], workers: Workers = ALONE) -> Path:
    """Train, or go on with, a model.

    Parameters
    ----------
    settings : FinetuneSettings
    report : callable
        Called with ("step" | "epoch", figures), the latter on every worker.
    workers : Workers

    Returns
    -------
    Path
        The model's file.

    Raises
    ------
    UsageError
        If settings, data or the folder cannot be used; see the subclasses.
    RunError
        If the loss is no number any more.
    """
    data, encoder, folder = _begun(settings, workers)
    view = View(settings.view_size or encoder.view.size, settings.view_zoom or encoder.view.zoom)
    examples = {
        name: Examples(decoded(images, view, settings.cache, workers), targets)
        for name, (images, targets) in data.parts.items()
    }
    torch.manual_seed(settings.seed)
    names = data.names
    net = encoder.build(len(names), settings.task, dropout=settings.dropout, unit_interval=settings.unit_interval)
    task = FinetuneTask(net, examples["train"], examples["val"], names, settings, data.tree)
    trainer = Trainer(task, settings, device=device_named(settings.device), workers=workers)
    return folder.train(trainer, _card(settings, data, encoder, view), report, task.finished)


def require_trainable(settings: FinetuneSettings) -> None:
    """Refuse what cannot be trained before workers are started, which would be started again for it.

    Raises
    ------
    UsageError
        As `finetune` does.
    """
    _begun(settings, ALONE)


def _begun(settings: FinetuneSettings, workers: Workers) -> tuple[_Labelled, StartEncoder, TrainingFolder]:
    """Labels, encoder and folder, which fit together."""
    data = _labelled(settings)
    encoder = find_encoder(settings.encoder, settings.arch)
    folder = TrainingFolder(settings.output, SETTINGS, workers)
    folder.require_same(_fixed(settings, data, encoder))
    return data, encoder, folder


@dataclass(frozen=True, kw_only=True)
class _Labelled:
    """Galaxies that have labels, by split, and what the labels are."""

    digest: str
    names: tuple[str, ...]
    tree: DecisionTree | None
    parts: dict[str, tuple[LabelledImages, npt.NDArray[Any]]]


def _labelled(settings: FinetuneSettings) -> _Labelled:
    shards = open_shards(settings.data)
    if settings.fold is None:
        splits = {name: shards.split(name) for name in SPLITS}
    else:
        folds = shards.fold(settings.fold, settings.folds)
        splits = {name: folds[name] for name in SPLITS}
    splits = {name: select(images, settings.where) for name, images in splits.items()}
    spec = LabelSpec(**settings.model_dump(include=set(LabelSpec.model_fields)))
    names = output_names(settings.task, splits["train"], spec)
    if settings.task == "classes":  # the same classes, in the same order, whichever of them a split has
        spec = spec.model_copy(update={"classes": names})
    parts = {}
    for name, images in splits.items():
        targets = targets_for(settings.task, images, spec)
        has_label = _has_label(settings.task, targets)
        parts[name] = images.where(has_label), targets[has_label]
    tree = load_tree(spec.tree) if settings.task == "tree" and spec.tree else None
    return _Labelled(digest=shards.digest, names=names, tree=tree, parts=parts)


def _has_label(task: TaskName, targets: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which galaxies there is anything to learn from, bool (N,)."""
    if task == "classes":
        return np.asarray(targets >= 0)
    known = targets > 0 if task == "tree" else ~np.isnan(targets)
    return np.asarray(known.any(axis=1))


def _fixed(settings: FinetuneSettings, data: _Labelled, encoder: StartEncoder) -> dict[str, Any]:
    fixed: dict[str, Any] = settings.model_dump(mode="json", exclude=FREE | {"data"})
    galaxies = {name: images.digest for name, (images, _) in data.parts.items()}
    return fixed | {"galaxies": galaxies, "encoder": encoder.source}


def _card(settings: FinetuneSettings, data: _Labelled, encoder: StartEncoder, view: View) -> dict[str, Any]:
    split = "train" if settings.fold is None else f"all but folds {settings.fold} and the next of {settings.folds}"
    card: dict[str, Any] = {
        "name": settings.output.name,
        "task": settings.task,
        "view": {"size": view.size, "zoom": view.zoom},
        "labels": list(data.names),
        "training": {
            "command": "training/finetune.py",
            "data": settings.data,
            "digest": data.digest,
            "split": split,
            "fold": settings.fold,
            "folds": None if settings.fold is None else settings.folds,
            "where": settings.where,
            "galaxies": {name: len(images) for name, (images, _) in data.parts.items()},
            "encoder": encoder.source,
            "seed": settings.seed,
            "settings": settings.model_dump(mode="json", exclude=FREE | {"data"}),
            "date": time.strftime("%Y-%m-%d"),
        },
        "not_fit_for": ["galaxies unlike those of its training data: other surveys, depths, scales or selections"],
    }
    if data.tree is not None:
        card["tree"] = data.tree.to_dict()
    return card
