"""What the training loop trains: a model, its images, its loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from galaxray.training.draws import StepDraws

__all__ = ["Report", "Stretch", "Task", "everything"]

Report = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Epochs in which the same parameters are trained.

    Attributes
    ----------
    epochs : int
    groups : sequence of (sequence of Parameter, float)
        What is trained, and the factor of its learning rate. Everything else is frozen.
    """

    epochs: int
    groups: Sequence[tuple[Sequence[nn.Parameter], float]]


class Task(Protocol):
    """What is trained: a model, its images, its loss."""

    @property
    def model(self) -> nn.Module:
        """What is trained."""

    @property
    def num_images(self) -> int:
        """Images to train on."""

    def stretches(self, epochs: int) -> Sequence[Stretch]:
        """What is trained when; the epochs add up to ``epochs``."""

    def batch(self, rows: np.ndarray, draws: StepDraws) -> tuple[Tensor, ...]:
        """Augmented images (N, 3, H, W), float in [0, 1], and what the loss needs beside them, for these rows."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        """Mean loss of a batch; ``progress`` goes from 0 to 1 over the whole training."""

    def validate(self, model: nn.Module) -> Report:
        """Figures of merit on images that are not trained on; ``validation_loss`` decides which weights are best."""


def everything(model: nn.Module, epochs: int) -> list[Stretch]:
    """One stretch in which every parameter is trained at the same rate."""
    return [Stretch(epochs=epochs, groups=[(list(model.parameters()), 1.0)])]
