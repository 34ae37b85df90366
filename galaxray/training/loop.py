"""One training loop for all models: AdamW, a one-cycle schedule, an exponential moving average of the weights.

`train_loop` takes a task (model, data and loss) and a config, and reports through a callback: a program prints it,
Ray Train collects it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Annotated, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

__all__ = ["LoopConfig", "Report", "Task", "train_loop"]

PositiveInt = Annotated[int, Field(gt=0)]
Report = dict[str, float]


class LoopConfig(BaseModel):
    """How long and how fast to train."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    epochs: PositiveInt = 12
    """Passes through the training images."""
    batch_size: PositiveInt = 64
    """Images per step."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    """Peak of the one-cycle schedule."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.02
    """Of AdamW, on matrices and kernels only."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.998
    """Memory of the averaged weights, per step."""
    clip: Annotated[float, Field(gt=0)] = 100.0
    """Largest norm of the gradient: against single wild batches."""
    seed: int = 0
    """Of the initial weights, the order of the images and their augmentation."""
    bf16: bool = True
    """Compute in bfloat16 (weights stay float32)."""
    report_every_s: Annotated[float, Field(gt=0)] = 20.0
    """Seconds between two lines of progress."""


class Task(Protocol):
    """What is trained: a model, its images, its loss."""

    model: nn.Module

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
        """One epoch of augmented batches; the first tensor is the images (N, 3, H, W), float in [0, 1]."""

    def num_batches(self, batch_size: int) -> int:
        """Count the batches of an epoch."""

    def loss(self, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        """Mean loss of a batch; ``progress`` goes from 0 to 1 over the whole training."""

    def validate(self, model: nn.Module) -> Report:
        """Figures of merit on images that are not trained on."""


def train_loop(task: Task, config: LoopConfig, report: Callable[[str, Report], None]) -> nn.Module:
    """Train a task's model and give back the averaged weights.

    Parameters
    ----------
    task : Task
        Its model must have been made after ``torch.manual_seed(config.seed)`` for a run to be repeatable.
    config : LoopConfig
    report : callable
        Called with ("step" | "epoch", figures).

    Returns
    -------
    nn.Module
        A copy of the model with averaged weights, in evaluation mode.
    """
    generator = torch.Generator().manual_seed(config.seed)
    model = task.model.to(memory_format=torch.channels_last).train()
    steps = config.epochs * task.num_batches(config.batch_size)
    optimizer = torch.optim.AdamW(_parameter_groups(model, config.weight_decay), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=steps + 1, pct_start=0.15
    )
    # batch statistics are averaged with the weights: they belong to each other
    averaged = AveragedModel(model, avg_fn=_moving_average(config.ema_decay), use_buffers=True)
    progress = _Progress(steps, config.batch_size, config.report_every_s, report)
    step = 0
    for epoch in range(config.epochs):
        for batch in task.batches(config.batch_size, generator):
            with torch.autocast(batch[0].device.type, torch.bfloat16, enabled=config.bf16):
                loss = task.loss(batch, step / steps)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            schedule.step()
            averaged.update_parameters(model)
            step += 1
            progress.step(step, float(loss.detach()), float(schedule.get_last_lr()[0]))
        report("epoch", {"epoch": epoch + 1, **task.validate(averaged.module.eval())})
    final: nn.Module = averaged.module.eval()
    return final


def _moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    def average(averaged: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
        # a short memory at first: the random weights of the beginning would linger in a short training
        num = int(num_averaged)
        weight = 1 - min(decay, (1 + num) / (10 + num))
        return torch.lerp(averaged, current, weight) if averaged.is_floating_point() else current

    return average


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    # biases and normalisation are not to be pulled to zero
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


class _Progress:
    """Mean loss, images per second and time left, every few seconds."""

    def __init__(self, steps: int, batch_size: int, every_s: float, report: Callable[[str, Report], None]) -> None:
        self.steps, self.batch_size, self.every_s, self.report = steps, batch_size, every_s, report
        self.started = self.last = time.monotonic()
        self.losses: list[float] = []

    def step(self, step: int, loss: float, learning_rate: float) -> None:
        self.losses.append(loss)
        now = time.monotonic()
        if now - self.last < self.every_s and step < self.steps:
            return
        per_step = (now - self.started) / step
        figures = {
            "step": step,
            "steps": self.steps,
            "loss": sum(self.losses) / len(self.losses),
            "learning_rate": learning_rate,
            "images_per_s": self.batch_size / per_step,
            "eta_s": (self.steps - step) * per_step,
        }
        self.report("step", figures)
        self.last, self.losses = now, []
