"""The folder of one training: it holds one only, goes on with it, and ends with its best weights.

::

    OUTPUT/model.safetensors, model.json   the best weights by the validation loss, and their card; written at the end
    OUTPUT/checkpoints/last.pt             everything that the training needs to go on
    OUTPUT/PROGRAM.json                    settings and data; a folder made with others is refused
    OUTPUT/history.json                    figures of every epoch
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from galaxray.errors import ConfigError, RunMismatchError
from galaxray.images import View
from galaxray.models.weights import save_model
from galaxray.storage import LocalFolder
from galaxray.storage_errors import storage_errors
from galaxray.training.labelled_images import LabelledImages
from galaxray.training.loop import Trainer
from galaxray.training.task import Report
from galaxray.training.workers import Workers

__all__ = ["FREE", "MODEL", "TrainingFolder", "TrainingSettings", "decoded", "device_named"]

MODEL = "model.safetensors"
CHECKPOINT = "checkpoints/last.pt"
FREE = {"output", "device", "report_every_s", "save_every_s", "cache"}
"""Settings that change how a training goes, not what it gives."""


class TrainingSettings(Protocol):
    """What the settings of every training have, whatever it trains."""

    @property
    def output(self) -> Path:
        """Folder for the model and the checkpoints, on a disk that all workers share."""

    @property
    def device(self) -> str:
        """``auto``, ``cpu`` or ``cuda``."""


class TrainingFolder:
    """A folder in which a model is trained.

    Parameters
    ----------
    path : Path
    settings_name : str
        File that says what is trained.
    workers : Workers
        Only the first of them writes.
    """

    def __init__(self, path: Path, settings_name: str, workers: Workers) -> None:
        self.path, self.settings_name, self.workers = path, settings_name, workers
        self._folder = LocalFolder(str(path))

    def require_same(self, fixed: dict[str, Any]) -> None:
        """Refuse a folder in which something else was trained; otherwise note what this training is.

        Parameters
        ----------
        fixed : dict
            Everything that decides what comes out; JSON values.

        Raises
        ------
        RunMismatchError
        ConfigError
            If it is no folder on a disk, or cannot be written to.
        """
        if not self.workers.is_first:
            return
        if str(self.path).startswith(("s3:/", "http:/", "https:/")):  # what a path makes of an address
            raise ConfigError(f"--output {self.path}: a training needs a folder on a disk, which all its workers share")
        self._folder.check()
        if not self._folder.exists(self.settings_name):
            self._folder.write(self.settings_name, json.dumps(fixed, indent=2).encode())
            return
        before = json.loads(self._folder.read(self.settings_name))
        differences = [
            f"{name} was {before.get(name)!r}, is {fixed.get(name)!r}"
            for name in sorted(before.keys() | fixed.keys())
            if before.get(name) != fixed.get(name)
        ]
        if differences:
            raise RunMismatchError(
                f"{self._folder.root} holds a training that was made otherwise: {'; '.join(differences)}. "
                "Use another --output, or the settings of that one to go on with it."
            )

    def train(
        self,
        trainer: Trainer,
        card: dict[str, Any],
        report: Callable[[str, Report], None],
        finished: Callable[[nn.Module], nn.Module] = lambda model: model,
    ) -> Path:
        """Train to the end, from the checkpoint if there is one, and save the best model.

        A training that is over and has its model is left as it is: figures may have been written into the card since.

        Parameters
        ----------
        trainer : Trainer
        card : dict
            The model's; ``training`` in it gets the figures of the best epoch and the time that it took.
        report : callable
            Called with ("step" | "epoch", figures), the latter on every worker.
        finished : callable
            Gives the part of the trained model that is kept.

        Returns
        -------
        Path
            The model's file.

        Raises
        ------
        RunError
            If the loss is no number any more.
        """
        if self._folder.exists(CHECKPOINT):
            trainer.restore(self._folder.read(CHECKPOINT))
        if self.workers.share(trainer.is_over and self._folder.exists("model.json")):  # written after the weights
            return self.path / MODEL
        started = time.monotonic()

        def keep(kind: str, figures: Report) -> None:
            report(kind, figures)
            if kind == "epoch" and self.workers.is_first:
                self._folder.write("history.json", json.dumps(trainer.history, indent=1).encode())

        def save(state: bytes) -> None:
            with storage_errors(str(self.path)):
                self._folder.write(CHECKPOINT, state)

        trainer.train(keep, save)
        if self.workers.is_first:
            hours = round((time.monotonic() - started) / 3600, 2)
            training = card["training"] | {"best": _best(trainer.history), "hours": hours}
            save_model(self.path / "model", finished(trainer.finished()), card | {"training": training})
        self.workers.share(None)  # nobody leaves before it is there
        return self.path / MODEL


def decoded(images: LabelledImages, view: View, cache: Path, workers: Workers) -> npt.NDArray[np.uint8]:
    """Pixels of images, (N, S, S, 3); the first worker decodes; others find its file on a shared disk."""
    if workers.is_first:
        images.pixels(view, cache)
    workers.share(None)
    return images.pixels(view, cache)


def device_named(name: str) -> torch.device:
    """Device to train on.

    Raises
    ------
    ConfigError
        If there is none of this name.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device {name}: auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda, but torch finds no GPU here")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _best(history: list[Report]) -> Report:
    return min(history, key=lambda figures: figures["validation_loss"])
