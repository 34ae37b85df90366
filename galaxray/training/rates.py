"""Which parameters are trained when, and how fast: stretches of epochs, a warm-up and a cosine in each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

__all__ = ["Rates", "Stretch", "everything"]

LEAST_RATE = 0.01  # of the peak, where the cosine ends


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


def everything(model: nn.Module, epochs: int) -> list[Stretch]:
    """One stretch in which every parameter is trained at the same rate."""
    return [Stretch(epochs=epochs, groups=[(list(model.parameters()), 1.0)])]


class Rates:
    """The learning rate of every parameter at every step.

    Parameters
    ----------
    model : nn.Module
    stretches : sequence of Stretch
    learning_rate : float
        Peak, for what has the factor 1.
    warmup : float
        Part of each stretch in which the rate grows.
    weight_decay : float
        Of matrices and kernels.

    Attributes
    ----------
    groups : list of dict
        For the optimiser: one for each factor of the rate in a stretch, matrices and vectors apart.
    """

    def __init__(
        self,
        model: nn.Module,
        stretches: Sequence[Stretch],
        *,
        learning_rate: float,
        warmup: float,
        weight_decay: float,
    ) -> None:
        self._model, self._learning_rate, self._warmup = model, learning_rate, warmup
        self.stretches = [stretch for stretch in stretches if stretch.epochs]
        factors = [
            {id(parameter): factor for group, factor in stretch.groups for parameter in group}
            for stretch in self.stretches
        ]
        found: dict[tuple[tuple[float, ...], float], list[nn.Parameter]] = {}
        for parameter in model.parameters():
            # biases and normalisation are not to be pulled to zero
            decay = weight_decay if parameter.ndim > 1 else 0.0
            found.setdefault((tuple(of.get(id(parameter), 0.0) for of in factors), decay), []).append(parameter)
        self._factors = [by_stretch for by_stretch, _ in found]
        self.groups: list[dict[str, Any]] = [
            {"params": parameters, "weight_decay": decay} for (_, decay), parameters in found.items()
        ]

    def begin_epoch(self, epoch: int) -> None:
        """Put the model into training mode, with everything frozen that is not trained in this epoch."""
        number, _ = self._stretch_of(epoch)
        for group, factors in zip(self.groups, self._factors, strict=True):
            for parameter in group["params"]:
                parameter.requires_grad_(factors[number] > 0)
                parameter.grad = None
        self._model.train()
        for module in self._model.modules():
            # Batch statistics of what is frozen stay as they are: they belong to its weights.
            own = list(module.parameters(recurse=False))
            if isinstance(module, _BatchNorm) and own and not own[0].requires_grad:
                module.eval()

    def set(self, optimizer: Optimizer, epochs: float) -> None:
        """Set the rates of an optimiser's groups for the step that begins when so many epochs are over."""
        number, first = self._stretch_of(int(epochs))
        rate = self._learning_rate * _shape((epochs - first) / self.stretches[number].epochs, self._warmup)
        for group, factors in zip(optimizer.param_groups, self._factors, strict=True):
            group["lr"] = rate * factors[number]

    def _stretch_of(self, epoch: int) -> tuple[int, int]:
        """Number of the stretch that an epoch is in, and the first epoch of it."""
        first = 0
        for number, stretch in enumerate(self.stretches):
            if epoch < first + stretch.epochs:
                return number, first
            first += stretch.epochs
        raise ValueError(f"epoch {epoch} is in no stretch")


def _shape(progress: float, warmup: float) -> float:
    """Learning rate, as a part of its peak, after a part of a stretch."""
    if progress < warmup:
        return max(LEAST_RATE, progress / warmup)
    falling = (progress - warmup) / (1 - warmup)
    return LEAST_RATE + (1 - LEAST_RATE) * 0.5 * (1 + math.cos(math.pi * falling))
