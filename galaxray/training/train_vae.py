"""Train an autoencoder on the images of a data set: a model file that a run loads as its embedder.

What is in the folder: `galaxray.training.training_folder`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from galaxray.errors import ConfigError
from galaxray.images import View
from galaxray.models.vae import VAE
from galaxray.training.labelled_images import LabelledImages
from galaxray.training.labels import LabelSpec, output_names, select, targets_for
from galaxray.training.loop import Trainer
from galaxray.training.shards import open_shards
from galaxray.training.task import Report
from galaxray.training.training_folder import FREE, TrainingFolder, decoded, device_named
from galaxray.training.vae_task import VAEConfig, VAETask
from galaxray.training.workers import ALONE, Workers

__all__ = ["SETTINGS", "VAEData", "VAESettings", "open_data", "train_vae"]

SETTINGS = "train_vae.json"
SMALLEST, LARGEST = 16, 512


def _require_power_of_two(size: int) -> int:
    if not SMALLEST <= size <= LARGEST or size & (size - 1):
        raise PydanticCustomError("size", f"a power of two from {SMALLEST} to {LARGEST}, such as 64, 128 or 256")
    return size


class VAESettings(VAEConfig):
    """What is trained, and on what."""

    data: str
    """Data set of images, with or without labels, made by pipelines/fetch_cutouts.py: a folder, or s3://."""
    output: Path
    """Folder for the model and the checkpoints, on a disk that all workers share."""
    latent_dim: Annotated[int, Field(gt=0)] = 32
    """Length of the embedding."""
    size: Annotated[int, AfterValidator(_require_power_of_two)] = 64
    """Width and height in pixels of what the model sees: 64, 128 or 256."""
    zoom: Annotated[float, Field(ge=1)] = 1.0
    """Enlargement about the centre before that."""
    channels: Annotated[int, Field(gt=0)] = 16
    """Channels of the first level; they double with each level."""
    max_channels: Annotated[int, Field(gt=0)] = 128
    """Channels of the deepest level at most."""
    where: str | None = None
    """Only these galaxies, e.g. "T >= 1 and T <= 7"."""
    column: str | None = None
    """Labels that the latents are tested on after the training, which does not see them: a column with the class."""
    classes: tuple[str, ...] = ()
    """Classes of that column; where left out, all that it holds."""
    rules: dict[str, str] = Field({})
    """Condition by class, instead of a column, e.g. early="T <= -1"."""
    device: str = "auto"
    """``auto`` takes a GPU if there is one; cpu, cuda."""
    cache: Path = Path("~/.cache/galaxray/pixels")
    """Where decoded images are kept, on a local disk."""

    @property
    def view(self) -> View:
        """What the model sees of an image; ConfigError if that cannot be."""
        try:
            return View(self.size, self.zoom)
        except ValueError as error:
            raise ConfigError(f"--zoom {self.zoom:g}: {error}") from None

    @property
    def labels(self) -> LabelSpec | None:
        """Labels to test the latents on, if any are named."""
        if self.column is None and not self.rules and not self.classes:
            return None
        return LabelSpec(column=self.column, classes=self.classes, rules=self.rules)


LABELS = set(LabelSpec.model_fields)


@dataclass(frozen=True, kw_only=True)
class VAEData:
    """Images by split, and labels to test latents on.

    Attributes
    ----------
    digest : str
        Of the whole data set.
    parts : dict of str to LabelledImages
        ``train``, ``val`` and ``test``.
    split : str
        Which of them is held out: ``test``, or ``val`` where there is no other.
    labels : LabelSpec or None
        With its classes filled in; some of the galaxies of ``train`` and of those held out have one.
    """

    digest: str
    parts: dict[str, LabelledImages]
    split: str
    labels: LabelSpec | None


def open_data(settings: VAESettings) -> VAEData:
    """Open the data set, and see that the labels are there.

    Raises
    ------
    ConfigError
        If it cannot be used: no such folder, column, class or galaxy.
    """
    shards = open_shards(settings.data)
    parts = {name: select(shards.split(name), settings.where) for name in ("train", "val", "test")}
    split = "test" if len(parts["test"]) else "val"
    spec = settings.labels
    if spec is not None:
        spec = spec.model_copy(update={"classes": output_names("classes", parts["train"], spec)})
        for name in ("train", split):
            if not (targets_for("classes", parts[name], spec) >= 0).any():
                raise ConfigError(f"no galaxy of the split {name!r} is of any of the classes {', '.join(spec.classes)}")
    return VAEData(digest=shards.digest, parts=parts, split=split, labels=spec)


def train_vae(settings: VAESettings, report: Callable[[str, Report], None], workers: Workers = ALONE) -> Path:
    """Train, or go on with, an autoencoder.

    Parameters
    ----------
    settings : VAESettings
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
    data, view = open_data(settings), settings.view
    folder = TrainingFolder(settings.output, SETTINGS, workers)
    galaxies = {name: data.parts[name].digest for name in ("train", "val")}
    folder.require_same({**_fixed(settings), "galaxies": galaxies})
    train, val = (decoded(data.parts[name], view, settings.cache, workers) for name in ("train", "val"))
    torch.manual_seed(settings.seed)
    net = VAE(settings.latent_dim, settings.size, settings.channels, settings.max_channels)
    trainer = Trainer(
        VAETask(net, train, val, settings), settings, device=device_named(settings.device), workers=workers
    )
    return folder.train(trainer, _card(settings, data, view), report)


def _fixed(settings: VAESettings) -> dict[str, Any]:
    """What decides the weights: not where the data lie, nor what the latents are tested on."""
    fixed: dict[str, Any] = settings.model_dump(mode="json", exclude=FREE | LABELS | {"data"})
    return fixed


def _card(settings: VAESettings, data: VAEData, view: View) -> dict[str, Any]:
    return {
        "name": settings.output.name,
        "view": {"size": view.size, "zoom": view.zoom},
        "training": {
            "command": "training/train_vae.py",
            "data": settings.data,
            "digest": data.digest,
            "split": "train",
            "where": settings.where,
            "galaxies": {name: len(data.parts[name]) for name in ("train", "val")},
            "seed": settings.seed,
            "settings": _fixed(settings),
            "date": time.strftime("%Y-%m-%d"),
        },
        "not_fit_for": [
            "galaxies unlike those of its training data: other surveys, depths, scales or selections",
            "comparing embeddings with those of another model",
        ],
    }
