"""A variational autoencoder as a task of the training loop: images in, the same images out, no labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from galaxray.errors import ConfigError
from galaxray.models.vae import VAE, VAEOutput
from galaxray.training.augment import NUM_DRAWS, AugmentConfig, augment, to_float
from galaxray.training.draws import StepDraws
from galaxray.training.loop import LoopConfig
from galaxray.training.rates import Stretch, everything
from galaxray.training.scores import ACTIVE_VARIANCE
from galaxray.training.task import Report

__all__ = ["ExactAugmentConfig", "VAEConfig", "VAETask", "outputs_of"]

EVALUATION_BATCH = 64
Fraction = Annotated[float, Field(ge=0, lt=1)]


class ExactAugmentConfig(AugmentConfig):
    """How images are varied; by default only in ways that leave every pixel's value alone, for they are the target."""

    rotate: Literal["any", "right-angles", "none"] = "right-angles"
    """Turned by any angle, by multiples of 90 degrees (exact: no pixel is interpolated for it), or not."""
    mirror: bool = True
    """Half of the images mirrored."""
    zoom: Fraction = 0.0
    """Enlarged or shrunk by up to this fraction."""
    shift: Fraction = 0.0
    """Moved by up to this fraction of the width."""
    brightness: Fraction = 0.0
    """All channels brighter or dimmer by up to this fraction."""
    colour: Fraction = 0.0
    """Each channel for itself brighter or dimmer by up to this fraction."""


class VAEConfig(LoopConfig):
    """How an autoencoder is trained."""

    epochs: Annotated[int, Field(gt=0)] = 60
    """Passes through the training images."""
    batch_size: Annotated[int, Field(gt=0)] = 32
    """Images per step, all workers together."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    """Peak of the schedule."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.02
    """Of AdamW, on matrices and kernels only."""
    beta: Annotated[float, Field(ge=0)] = 0.005
    """Weight of the divergence beside the squared error summed over pixels, images in [0, 1]. Twice the variance of the
    pixels about the reconstruction makes the loss a likelihood; more gives a smoother latent space of fewer active
    dimensions, less a sharper picture."""
    beta_warmup: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Part of the training in which that weight grows from 0: otherwise dimensions are given up before they are
    learned."""
    augment: ExactAugmentConfig = ExactAugmentConfig()


class VAETask:
    """Train a `VAE` on images.

    Parameters
    ----------
    model : VAE
    train, validation : ndarray of uint8, (N, size, size, 3)
        May be memory maps.
    config : VAEConfig

    Raises
    ------
    ConfigError
        If there is nothing to train or to validate on.
    """

    def __init__(
        self, model: VAE, train: npt.NDArray[np.uint8], validation: npt.NDArray[np.uint8], config: VAEConfig
    ) -> None:
        for name, images in (("train", train), ("val", validation)):
            if not len(images):
                raise ConfigError(f"no images are in the split {name!r}: more are needed, or another split")
        self.model, self.train, self.validation, self.config = model, train, validation, config

    @property
    def num_images(self) -> int:
        """Images to train on."""
        return len(self.train)

    def stretches(self, epochs: int) -> Sequence[Stretch]:
        """Everything is trained from the beginning."""
        return everything(self.model, epochs)

    def batch(self, rows: npt.NDArray[np.integer], draws: StepDraws) -> tuple[Tensor, ...]:
        """Images as they are, and random numbers for their augmentation."""
        pixels = torch.from_numpy(np.ascontiguousarray(self.train[rows]))
        return pixels, draws.of_images(rows, NUM_DRAWS)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        """Squared error summed over pixels, and the divergence times a weight that grows at first; mean over images."""
        pixels, draws = batch
        images, _ = augment(pixels, draws, self.config.augment)
        warmup = self.config.beta_warmup
        beta = self.config.beta * (min(1.0, progress / warmup) if warmup else 1.0)
        output = VAEOutput(*(tensor.float() for tensor in model(images)))
        return VAE.loss(output, images, beta)[0]

    def validate(self, model: nn.Module) -> Report:
        """Loss at the full weight of the divergence, of the means of the latent distributions; and what it is made of.

        ``mse`` is per pixel and channel, ``kl`` in nats per image, ``active`` the number of active dimensions.
        """
        parts = [
            (output.mean, [float(part) * len(images) for part in VAE.loss(output, images, self.config.beta)])
            for images, output in outputs_of(model, self.validation, bf16=self.config.bf16)
        ]
        loss, error, divergence = np.sum([sums for _, sums in parts], axis=0) / len(self.validation)
        means = torch.cat([mean for mean, _ in parts])
        return {
            "validation_loss": float(loss),
            "mse": float(error) / self.validation[0].size,
            "kl": float(divergence),
            "active": float((means.var(0, correction=0) > ACTIVE_VARIANCE).sum()),
        }


def outputs_of(
    model: nn.Module, pixels: npt.NDArray[np.uint8], *, bf16: bool = False
) -> Iterator[tuple[Tensor, VAEOutput]]:
    """What an autoencoder makes of images, batch by batch.

    Parameters
    ----------
    model : nn.Module
        A `VAE` in evaluation mode, on any device.
    pixels : ndarray of uint8, (N, size, size, 3)
    bf16 : bool
        Compute in bfloat16.

    Yields
    ------
    images : Tensor of float32, (M, 3, size, size)
        In [0, 1].
    output : VAEOutput
        Float32; both on the CPU.
    """
    device = next(model.parameters()).device
    for start in range(0, len(pixels), EVALUATION_BATCH):
        images = to_float(torch.from_numpy(np.array(pixels[start : start + EVALUATION_BATCH])))
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            output = model(images.to(device))
        yield images, VAEOutput(*(tensor.float().cpu() for tensor in output))
