"""Finetuning as a task of the training loop: votes on a decision tree, classes, or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from galaxray.errors import ConfigError
from galaxray.models.classifier import ClassifierNet, Task
from galaxray.models.orientations import mirror_order
from galaxray.training.augment import NUM_DRAWS, AugmentConfig, augment, to_float
from galaxray.training.draws import StepDraws
from galaxray.training.encoders import blocks_of
from galaxray.training.loop import LoopConfig
from galaxray.training.losses import dirichlet_multinomial_loss, saturation_loss, vote_cross_entropy
from galaxray.training.rates import Stretch
from galaxray.training.task import Report
from galaxray.trees import DecisionTree

__all__ = ["Examples", "FinetuneConfig", "FinetuneTask"]

EVALUATION_BATCH = 64
WARM_UP = 0.6
WARM_UP_WEIGHT = 40.0
# See `FinetuneTask._vote_loss`.


class FinetuneConfig(LoopConfig):
    """How an encoder is finetuned."""

    epochs: Annotated[int, Field(gt=0)] = 40
    """Passes through the training images, the head's own among them."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak of the schedule, for the head; see ``lr_decay``."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Of AdamW, on matrices and kernels only."""
    head_epochs: Annotated[int, Field(ge=0)] = 2
    """Epochs in which the new head alone is trained; 0 where the encoder has random weights."""
    blocks: Annotated[int, Field(ge=0)] | Literal["all"] = "all"
    """Blocks of the encoder that are trained after that, from the top: stages of a ConvNeXt or ResNet, for instance."""
    lr_decay: Annotated[float, Field(gt=0, le=1)] = 0.75
    """Factor of the learning rate from one block to the next below; the top one has the head's."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Before the head."""
    class_weights: Literal["none", "balanced"] = "none"
    """``balanced``: each class counts the same, however many examples it has (task ``classes``)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of a class's probability that is spread over all (task ``classes``)."""
    regression_loss: Literal["mse", "mae"] = "mse"
    """Squared or absolute error (task ``regression``)."""
    unit_interval: bool = False
    """Targets lie in [0, 1], as fractions do: outputs go through a sigmoid (task ``regression``)."""
    augment: AugmentConfig = AugmentConfig()


@dataclass(frozen=True)
class Examples:
    """Images and what is known of them.

    Attributes
    ----------
    pixels : ndarray of uint8, (N, S, S, 3)
        May be a memory map.
    targets : ndarray
        ``tree``: votes, (N, A); ``classes``: index of the class, int64 (N,); ``regression``: float32 (N, T), NaN
        where missing.
    """

    pixels: npt.NDArray[np.uint8]
    targets: npt.NDArray[np.generic]

    def __len__(self) -> int:
        """Count the images."""
        return len(self.targets)


class _Logits(nn.Module):
    """A classifier whose forward pass ends before the activation: what losses want, and what workers share."""

    def __init__(self, net: ClassifierNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net.logits(images[:, : self.net.architecture["in_chans"]])


class FinetuneTask:
    """Train a classifier's head, then its blocks from the top, on labelled images.

    Parameters
    ----------
    net : ClassifierNet
    train, validation : Examples
    labels : sequence of str
        Names of the outputs.
    config : FinetuneConfig
    tree : DecisionTree, optional
        Of the task ``tree``.

    Raises
    ------
    ConfigError
        If there is nothing to train or to validate on.
    """

    def __init__(
        self,
        net: ClassifierNet,
        train: Examples,
        validation: Examples,
        labels: Sequence[str],
        config: FinetuneConfig,
        tree: DecisionTree | None = None,
    ) -> None:
        for name, examples in (("train", train), ("val", validation)):
            if not len(examples):
                raise ConfigError(f"no labelled images are in the split {name!r}: more are needed, or another split")
        self.net, self.train, self.validation, self.config = net, train, validation, config
        self.task: Task = net.head.task
        self.model = _Logits(net)
        self.groups = [slice(question.start, question.stop) for question in tree.questions] if tree else []
        self._order = torch.tensor(mirror_order(labels))
        self._class_weights = self._balance() if config.class_weights == "balanced" else None
        self._shift, self._scale = self._standard()

    @property
    def num_images(self) -> int:
        """Images to train on."""
        return len(self.train)

    def stretches(self, epochs: int) -> Sequence[Stretch]:
        """First the head, then also the top blocks, each slower than the one above it."""
        head: tuple[list[nn.Parameter], float] = (list(self.net.head.parameters()), 1.0)
        encoder = self.net.encoder
        head_epochs = min(self.config.head_epochs, epochs)
        if self.config.blocks == 0:
            return [Stretch(epochs=epochs, groups=[head])]
        if self.config.blocks == "all" and self.config.lr_decay == 1:
            blocks = [list(encoder.parameters())]
        else:
            blocks = blocks_of(encoder)[::-1][: None if self.config.blocks == "all" else self.config.blocks]
        slower = [(block, self.config.lr_decay**depth) for depth, block in enumerate(blocks)]
        return [
            Stretch(epochs=head_epochs, groups=[head]),
            Stretch(epochs=epochs - head_epochs, groups=[head, *slower]),
        ]

    def batch(self, rows: npt.NDArray[np.integer], draws: StepDraws) -> tuple[Tensor, ...]:
        """Images as they are, random numbers for their augmentation, and targets."""
        pixels = torch.from_numpy(np.ascontiguousarray(self.train.pixels[rows]))
        return pixels, draws.of_images(rows, NUM_DRAWS), torch.from_numpy(self.train.targets[rows])

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        """Mean loss of the images as they are varied; a mirrored one has the labels of its mirror image."""
        pixels, draws, targets = batch
        images, mirrored = augment(pixels, draws, self.config.augment)
        order = self._order.to(targets.device)
        if targets.ndim == 1:
            targets = torch.where(mirrored, order[targets], targets)
        else:
            targets = torch.where(mirrored[:, None], targets[:, order], targets)
        return self._losses(model(images).float(), targets, progress).mean()

    def validate(self, model: nn.Module) -> Report:
        """Loss of the validation images as they are; accuracy, or mean error of fractions or targets."""
        logits = self.predict(model, self.validation.pixels)
        targets = torch.from_numpy(self.validation.targets)
        loss = float(self._losses(logits, targets, progress=1.0).mean())
        return {"validation_loss": loss, **self._headline(logits, targets)}

    def predict(self, model: nn.Module, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """Outputs before the activation, float32 (N, outputs), on the CPU."""
        device = next(model.parameters()).device
        parts = []
        for start in range(0, len(pixels), EVALUATION_BATCH):
            images = to_float(torch.from_numpy(np.array(pixels[start : start + EVALUATION_BATCH])).to(device))
            with torch.autocast(device.type, torch.bfloat16, enabled=self.config.bf16):
                parts.append(model(images).float().cpu())
        return torch.cat(parts)

    def finished(self, model: nn.Module) -> ClassifierNet:
        """The classifier, whose outputs are in the targets' own units."""
        net = cast(ClassifierNet, model.get_submodule("net"))
        if self.task == "regression" and not self.config.unit_interval:
            with torch.no_grad():
                net.head.linear.weight *= self._scale[:, None]
                net.head.linear.bias.mul_(self._scale).add_(self._shift)
        return net

    def _losses(self, logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        """Loss of each image, (N,)."""
        if self.task == "tree":
            return self._vote_loss(logits, targets, progress)
        if self.task == "classes":
            weights = None if self._class_weights is None else self._class_weights.to(logits.device)
            smoothing = self.config.label_smoothing
            return functional.cross_entropy(logits, targets, weights, reduction="none", label_smoothing=smoothing)
        known = ~torch.isnan(targets)
        values = torch.sigmoid(logits) if self.config.unit_interval else logits
        wanted = torch.where(known, (targets - self._shift.to(targets)) / self._scale.to(targets), 0.0)
        error = torch.where(known, values - wanted, 0.0)
        return (error.square() if self.config.regression_loss == "mse" else error.abs()).sum(1)

    def _vote_loss(self, logits: Tensor, votes: Tensor, progress: float) -> Tensor:
        """Negative log-likelihood of the votes, as Zoobot has it; with random weights there is more to begin with.

        Where volunteers agree on each galaxy, and the encoder does not see yet what tells galaxies apart, the
        likelihood's best guess is the least concentration for every answer, at logits where the sigmoid passes no
        gradient on. A cross-entropy of the votes that fades out, and a bound on the logits, lead around that.
        """
        concentrations = self.net.head.activation(logits)
        loss = dirichlet_multinomial_loss(concentrations, votes, self.groups)
        fading = max(0.0, 1 - progress / WARM_UP)
        if fading and self.config.head_epochs == 0:
            entropy = vote_cross_entropy(concentrations, votes, self.groups)
            loss = loss + fading * (WARM_UP_WEIGHT * entropy + saturation_loss(logits))
        return loss

    def _headline(self, logits: Tensor, targets: Tensor) -> Report:
        if self.task == "classes":
            guess = logits.argmax(1)
            recalls = [float((guess[targets == one] == one).float().mean()) for one in set(targets.tolist())]
            return {"accuracy": float((guess == targets).float().mean()), "balanced_accuracy": float(np.mean(recalls))}
        if self.task == "regression":
            values = torch.sigmoid(logits) if self.config.unit_interval else logits * self._scale + self._shift
            return {"mean_error": float(torch.nanmean((values - targets).abs()))}
        concentrations, votes, errors = self.net.head.activation(logits), targets.float(), []
        for group in self.groups:
            voters = votes[:, group].sum(1, keepdim=True)
            asked = voters[:, 0] > 0
            fractions = concentrations[:, group] / concentrations[:, group].sum(1, keepdim=True)
            errors.append((fractions - votes[:, group] / voters.clamp(min=1)).abs()[asked].flatten())
        return {"mean_error": float(torch.cat(errors).mean())}

    def _balance(self) -> Tensor:
        counts = torch.bincount(torch.from_numpy(self.train.targets.astype(np.int64)), minlength=len(self._order))
        return len(self.train) / (counts.clamp(min=1) * (counts > 0).sum()).float()

    def _standard(self) -> tuple[Tensor, Tensor]:
        """Mean and scatter of the targets: what is learned has neither, whatever their units."""
        if self.task != "regression" or self.config.unit_interval:
            return torch.zeros(len(self._order)), torch.ones(len(self._order))
        targets = np.asarray(self.train.targets, np.float64)
        empty = np.isnan(targets).all(axis=0)
        if empty.any():
            raise ConfigError(f"target {int(np.flatnonzero(empty)[0]) + 1} has no value in the split 'train'")
        scatter = np.nanstd(targets, axis=0)
        return (
            torch.tensor(np.nanmean(targets, axis=0), dtype=torch.float32),
            torch.tensor(np.where(scatter > 0, scatter, 1.0), dtype=torch.float32),
        )
