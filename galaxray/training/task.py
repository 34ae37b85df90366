"""What the training loop trains: a model, its images, its loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from galaxray.training.draws import StepDraws
from galaxray.training.rates import Stretch

__all__ = ["Report", "Task"]

Report = dict[str, float]


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
