"""Finetuning from a data set to a model file that a run, the service and evaluation load by name.

::

    OUTPUT/model.safetensors, model.json   the best weights so far by the validation loss, and their card
    OUTPUT/checkpoints/last.pt             everything that the training needs to go on
    OUTPUT/finetune.json                   settings and data; a folder made with others is refused
    OUTPUT/history.json                    figures of every epoch
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from galaxray.errors import ConfigError, RunMismatchError
from galaxray.images import View
from galaxray.models.weights import save_model
from galaxray.storage import LocalFolder
from galaxray.storage_errors import storage_errors
from galaxray.training.encoders import StartEncoder, find_encoder
from galaxray.training.finetune_task import Examples, FinetuneConfig, FinetuneTask
from galaxray.training.labels import LabelSpec, TaskName, output_names, select, targets_for
from galaxray.training.loop import Trainer
from galaxray.training.shards import LabelledImages, open_shards
from galaxray.training.task import Report
from galaxray.training.workers import ALONE, Workers
from galaxray.trees import DecisionTree, load_tree

__all__ = ["FinetuneSettings", "finetune"]

CHECKPOINT = "checkpoints/last.pt"
SPLITS = ("train", "val")
SETTINGS = "finetune.json"
FREE = {"output", "device", "report_every_s", "save_every_s", "cache"}
"""Settings that change how a training goes, not what it gives."""


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
    data = _labelled(settings)
    encoder = find_encoder(settings.encoder, settings.arch)
    view = View(settings.view_size or encoder.view.size, settings.view_zoom or encoder.view.zoom)
    folder = LocalFolder(str(settings.output))
    if workers.is_first:
        _require_same(folder, _fixed(settings, data, encoder))
    examples = {name: _examples(part, view, settings, workers) for name, part in data.parts.items()}
    torch.manual_seed(settings.seed)
    names = data.names
    net = encoder.build(len(names), settings.task, dropout=settings.dropout, unit_interval=settings.unit_interval)
    task = FinetuneTask(net, examples["train"], examples["val"], names, settings, data.tree)
    trainer = Trainer(task, settings, device=_device(settings.device), workers=workers)
    if folder.exists(CHECKPOINT):
        trainer.restore(folder.read(CHECKPOINT))
    started = time.monotonic()
    card = _card(settings, data, encoder, view)

    def keep(kind: str, figures: Report) -> None:
        report(kind, figures)
        if kind == "epoch" and workers.is_first:
            folder.write("history.json", json.dumps(trainer.history, indent=1).encode())

    def save(state: bytes) -> None:
        with storage_errors(str(settings.output)):
            folder.write(CHECKPOINT, state)

    trainer.train(keep, save)
    weights = settings.output / "model.safetensors"
    if workers.is_first:
        card["training"] |= {"best": _best(trainer.history), "hours": round((time.monotonic() - started) / 3600, 2)}
        weights = save_model(settings.output / "model", task.finished(trainer.finished()), card)
    workers.share(None)  # nobody leaves before it is there
    return weights


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


def _examples(
    part: tuple[LabelledImages, npt.NDArray[Any]], view: View, settings: FinetuneSettings, workers: Workers
) -> Examples:
    """Pixels and targets; the first worker decodes, and the others find its file where they share the disk."""
    images, targets = part
    if workers.is_first:
        images.pixels(view, settings.cache)
    workers.share(None)
    return Examples(images.pixels(view, settings.cache), targets)


def _fixed(settings: FinetuneSettings, data: _Labelled, encoder: StartEncoder) -> dict[str, Any]:
    fixed: dict[str, Any] = settings.model_dump(mode="json", exclude=FREE | {"data"})
    galaxies = {name: images.digest for name, (images, _) in data.parts.items()}
    return fixed | {"galaxies": galaxies, "encoder": encoder.source}


def _require_same(folder: LocalFolder, fixed: dict[str, Any]) -> None:
    """Refuse a folder in which something else was trained.

    Raises
    ------
    RunMismatchError
    """
    folder.check()
    if not folder.exists(SETTINGS):
        folder.write(SETTINGS, json.dumps(fixed, indent=2).encode())
        return
    before = json.loads(folder.read(SETTINGS))
    differences = [
        f"{name} was {before.get(name)!r}, is {fixed.get(name)!r}"
        for name in sorted(before.keys() | fixed.keys())
        if before.get(name) != fixed.get(name)
    ]
    if differences:
        raise RunMismatchError(
            f"{folder.root} holds a training that was made otherwise: {'; '.join(differences)}. "
            "Use another --output, or the settings of that one to go on with it."
        )


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device {name}: auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda, but torch finds no GPU here")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _best(history: list[Report]) -> Report:
    return min(history, key=lambda figures: figures["validation_loss"])


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
