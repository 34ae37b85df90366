"""One training loop for all models: AdamW, a warm-up and a cosine, an exponential moving average of the weights.

`Trainer` takes a task (model, data and loss) and a config. It knows nothing of Ray: a program lets it run in its own
process, or in those that Ray Train starts, where it finds the process group of torch.distributed.

All random numbers come from a step's position (`galaxray.training.draws`), and the learning rate is a function of it,
so that weights, optimiser and the number of the step are the whole state: what goes on from a checkpoint ends, on a
CPU, with the very weights of a training that nobody disturbed.
"""

from __future__ import annotations

import io
import math
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from galaxray.errors import ConfigError, RunError
from galaxray.training.draws import StepDraws, epoch_order
from galaxray.training.rates import Rates
from galaxray.training.task import Report, Task
from galaxray.training.workers import ALONE, Workers

__all__ = ["LoopConfig", "Trainer"]

PositiveInt = Annotated[int, Field(gt=0)]


class LoopConfig(BaseModel):
    """How long and how fast to train."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    epochs: PositiveInt = 12
    """Passes through the training images."""
    batch_size: PositiveInt = 64
    """Images per step, all workers together."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    """Peak of the schedule."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Part of the steps in which the learning rate grows to its peak; then it falls along a cosine."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.02
    """Of AdamW, on matrices and kernels only."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.998
    """Memory of the averaged weights, per step; 0 keeps the last ones."""
    clip: Annotated[float, Field(gt=0)] = 100.0
    """Largest norm of the gradient: against single wild batches."""
    patience: PositiveInt | None = None
    """Stop after so many epochs without a better validation loss, counted once every weight is trained."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the initial weights, the order of the images and their augmentation."""
    bf16: bool = True
    """Compute in bfloat16 (weights stay float32)."""
    report_every_s: Annotated[float, Field(gt=0)] = 20.0
    """Seconds between two lines of progress."""
    save_every_s: Annotated[float, Field(gt=0)] = 300.0
    """Seconds between two checkpoints; there is one after every epoch, too."""


class Trainer:
    """Trains a task's model, step by step.

    Parameters
    ----------
    task : Task
        Its model must have been made after ``torch.manual_seed(config.seed)`` for a run to be repeatable.
    config : LoopConfig
    device : str or torch.device
    workers : Workers
        This process among those that train together.

    Raises
    ------
    ConfigError
        If there are fewer images than a batch has, or a batch cannot be shared out evenly.
    """

    def __init__(
        self, task: Task, config: LoopConfig, *, device: str | torch.device = "cpu", workers: Workers = ALONE
    ) -> None:
        if config.batch_size % workers.count:
            raise ConfigError(f"a batch of {config.batch_size} cannot be shared out evenly to {workers.count} workers")
        self.task, self.config, self.workers, self.device = task, config, workers, torch.device(device)
        self.batch_size = min(config.batch_size, task.num_images // workers.count * workers.count)
        if self.batch_size == 0:
            raise ConfigError(f"{task.num_images} images to train on, for {workers.count} workers: there must be more")
        self.steps_per_epoch = task.num_images // self.batch_size
        self.model: nn.Module = task.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        given = config.model_dump(include={"learning_rate", "warmup", "weight_decay"})
        self.rates = Rates(self.model, task.stretches(config.epochs), **given)
        self.optimizer = torch.optim.AdamW(self.rates.groups, lr=config.learning_rate)
        # batch statistics are averaged with the weights: they belong to each other
        self.averaged = AveragedModel(self.model, avg_fn=_moving_average(config.ema_decay), use_buffers=True)
        self.step = 0
        self.losses: list[Tensor] = []  # of the steps of this epoch that this process did
        self.history: list[Report] = []
        self.best: Mapping[str, Tensor] = {}
        self.waited_s = self.trained_s = 0.0
        self._prefetch = ThreadPoolExecutor(1, thread_name_prefix="galaxray-batches")

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.config.epochs * self.steps_per_epoch

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done, or validation has not become better for too long."""
        return self.step >= self.steps or self._has_lost_patience()

    def train(self, report: Callable[[str, Report], None], save: Callable[[bytes], None] = lambda state: None) -> None:
        """Train from where the state is to the end.

        Parameters
        ----------
        report : callable
            Called with ("step" | "epoch", figures); after an epoch on every worker, otherwise on the first alone.
        save : callable
            Given the state now and then, on the first worker.

        Raises
        ------
        RunError
            If the loss is no number any more.
        """
        progress = _Progress(self, report)
        saved = time.monotonic()
        while not self.is_over:
            epoch = self.step // self.steps_per_epoch
            self.rates.begin_epoch(epoch)
            model = self.model if self.workers.count == 1 else DistributedDataParallel(self.model)
            for batch in self._batches(epoch):
                self._train_on(model, batch)
                self.step += 1
                progress.tell()
                # Not between the last step of an epoch and its validation: what goes on begins with a step.
                is_within = self.step % self.steps_per_epoch > 0
                if is_within and self.workers.is_first and time.monotonic() - saved > self.config.save_every_s:
                    self.mean_loss()
                    save(self.state())
                    saved = time.monotonic()
            self._end_epoch(report)
            if self.workers.is_first:
                save(self.state())
                saved = time.monotonic()

    def mean_loss(self) -> float:
        """Mean loss of the steps of this epoch so far, on this worker.

        Raises
        ------
        RunError
            If it is no number: nothing that comes after can be used.
        """
        # Kept on the device until it is asked for: to look at every step's loss would make a GPU wait for us.
        loss = float(torch.stack(self.losses).mean()) if self.losses else math.nan
        if self.losses and not math.isfinite(loss):
            raise RunError(f"the loss is {loss} by step {self.step}: lower --learning-rate, or look at the labels")
        return loss

    def finished(self) -> nn.Module:
        """The model with the best weights by validation, in evaluation mode, on the CPU."""
        model: nn.Module = self.averaged.module
        model.load_state_dict(self.best or model.state_dict())
        return model.cpu().eval()

    def state(self) -> bytes:
        """Everything that the training needs to go on, as `restore` reads it."""
        content = {
            "step": self.step,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": dict(self.best),
            "history": self.history,
            "losses": self.losses,
            "loop": self._loop_settings(),
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return buffer.getvalue()

    def restore(self, state: bytes) -> None:
        """Go on from a state.

        Raises
        ------
        ConfigError
            If it is of another model, or of a training with another schedule.
        """
        try:
            content: dict[str, Any] = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
            differences = {
                name: (content["loop"].get(name), value)
                for name, value in self._loop_settings().items()
                if not name.endswith("_every_s") and content["loop"].get(name) != value
            }
            if differences:
                name, (was, now) = next(iter(differences.items()))
                raise ConfigError(f"the checkpoint is of a training with {name} {was}, not {now}")
            self.model.load_state_dict(content["model"])
            self.averaged.load_state_dict(content["averaged"])
            self.optimizer.load_state_dict(content["optimizer"])
        except (RuntimeError, ValueError, KeyError, AttributeError, pickle.UnpicklingError) as error:
            raise ConfigError(f"the checkpoint does not fit this training: {str(error).splitlines()[0]}") from None
        self.step, self.history, self.best = content["step"], content["history"], content["best"]
        self.losses = [loss.to(self.device) for loss in content["losses"]]

    def _loop_settings(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json", include=set(LoopConfig.model_fields))

    def _train_on(self, model: nn.Module, batch: tuple[Tensor, ...]) -> None:
        self.rates.set(self.optimizer, self.step / self.steps_per_epoch)
        torch.manual_seed(self._draws(self.step).of_step())
        with torch.autocast(self.device.type, torch.bfloat16) if self.config.bf16 else nullcontext():
            loss = self.task.loss(model, batch, self.step / self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        self.averaged.update_parameters(self.model)
        self.losses.append(loss.detach())

    def _draws(self, step: int) -> StepDraws:
        return StepDraws(seed=self.config.seed, epoch=step // self.steps_per_epoch, step=step, worker=self.workers.rank)

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        """What is left of an epoch; while the model works on a batch, the next is made."""
        order = epoch_order(self.task.num_images, self.config.seed, epoch)
        share = self.batch_size // self.workers.count

        def submit(step: int) -> Future[tuple[Tensor, ...]]:
            begin = (step - epoch * self.steps_per_epoch) * self.batch_size + self.workers.rank * share
            return self._prefetch.submit(self.task.batch, order[begin : begin + share], self._draws(step))

        last = (epoch + 1) * self.steps_per_epoch
        coming = submit(self.step)
        for step in range(self.step, last):
            began = time.monotonic()
            batch = coming.result()
            self.waited_s += time.monotonic() - began
            if step + 1 < last:
                coming = submit(step + 1)
            yield tuple(tensor.to(self.device, non_blocking=True) for tensor in batch)
            self.trained_s += time.monotonic() - began

    def _end_epoch(self, report: Callable[[str, Report], None]) -> None:
        figures = {
            "epoch": float(self.step // self.steps_per_epoch),
            "training_loss": self.workers.mean(self.mean_loss()),
        }
        figures |= self._validate()
        self.losses = []
        is_best = figures["validation_loss"] <= min(
            (known["validation_loss"] for known in self.history), default=math.inf
        )
        if is_best or not self.best:
            self.best = {
                name: tensor.detach().cpu().clone() for name, tensor in self.averaged.module.state_dict().items()
            }
        self.history.append(figures)
        report("epoch", figures | {"waiting": self.waited_s / max(self.trained_s, 1e-9)})

    def _validate(self) -> Report:
        """Figures of the first worker, which all others wait for."""
        figures: Report = {}
        if self.workers.is_first:
            model = self.averaged.module.eval()
            with torch.inference_mode():
                figures = self.task.validate(model)
        shared: Report = self.workers.share(figures)
        return shared

    def _has_lost_patience(self) -> bool:
        patience, whole = self.config.patience, self.rates.stretches[-1].epochs
        losses = [figures["validation_loss"] for figures in self.history]
        if patience is None or len(losses) <= self.config.epochs - whole + patience:
            return False
        return min(losses[-patience:]) > min(losses[:-patience])


def _moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    def average(averaged: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
        # a short memory at first: the random weights of the beginning would linger in a short training
        num = int(num_averaged)
        weight = 1 - min(decay, (1 + num) / (10 + num))
        return torch.lerp(averaged, current, weight) if averaged.is_floating_point() else current

    return average


class _Progress:
    """Mean loss, images per second and time left, every few seconds."""

    def __init__(self, trainer: Trainer, report: Callable[[str, Report], None]) -> None:
        self._trainer, self._report = trainer, report
        self._began = self._last = time.monotonic()
        self._first = trainer.step

    def tell(self) -> None:
        trainer, now = self._trainer, time.monotonic()
        is_time = now - self._last >= trainer.config.report_every_s or trainer.step == trainer.steps
        if not (is_time and trainer.workers.is_first):
            return
        per_step = (now - self._began) / (trainer.step - self._first)
        figures = {
            "step": trainer.step,
            "steps": trainer.steps,
            "loss": trainer.mean_loss(),
            "learning_rate": max(group["lr"] for group in trainer.optimizer.param_groups),
            "images_per_s": trainer.batch_size / per_step,
            "eta_s": (trainer.steps - trainer.step) * per_step,
        }
        self._report("step", figures)
        self._last = now
