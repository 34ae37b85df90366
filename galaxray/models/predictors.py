"""Models that annotate images: loaded, on a device, numpy arrays in and out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galaxray.config import ClassifierConfig
from galaxray.errors import ConfigError
from galaxray.images import View
from galaxray.models.classifier import ClassifierNet, Task
from galaxray.models.dropout import Draws, make_repeatable
from galaxray.models.engine import Engine
from galaxray.models.orientations import mirror_order, oriented
from galaxray.models.unet import UNet
from galaxray.models.vae import VAE
from galaxray.trees import DecisionTree

__all__ = ["Classifier", "Embedder", "Member", "Segmenter"]


@dataclass(frozen=True)
class Member:
    """One model of an ensemble."""

    ref: str
    digest: str
    model: ClassifierNet
    view: View
    tree: DecisionTree | None
    labels: tuple[str, ...]
    always_stochastic: bool


class Classifier:
    """One classifier, or an ensemble of several with the same outputs.

    Attributes
    ----------
    view : View
        What it looks at.
    task : {"tree", "classes", "regression"}
    tree : DecisionTree or None
        Of the task ``tree``.
    labels : tuple of str
        Names of the outputs.
    digest : str
        SHA-256 of the model file; of the files' digests, where there are several.
    precision : {"fp32", "bf16"}
        What it computes with.
    """

    def __init__(self, members: Sequence[Member], config: ClassifierConfig, engine: Engine) -> None:
        first = members[0]
        self.view = first.view
        self.task: Task = first.model.head.task
        self.tree = first.tree
        self.labels = first.labels
        self.digest = first.digest
        if len(members) > 1:
            self.digest = hashlib.sha256("\n".join(member.digest for member in members).encode()).hexdigest()
        self.precision = engine.precision
        self._engine = engine
        self._passes = config.passes
        self._orientations = config.orientations
        self._mirror_order = mirror_order(self.labels)
        self._draws = Draws(config.seed)
        self._members = [self._prepare(member) for member in members]

    def _prepare(self, member: Member) -> _Prepared:
        stochastic = make_repeatable(member.model, self._draws)
        if self._passes > 1 and not stochastic:
            raise ConfigError(
                f"classifier.passes is {self._passes}, but {member.ref} has no dropout: every pass would be the same"
            )
        return _Prepared(
            model=self._engine.prepare(member.model),
            draws=self._passes > 1 or member.always_stochastic,
            in_head_only=all(name.startswith("head.") for name in stochastic),
        )

    def predict(self, images: NDArray[np.uint8], row_index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Predict.

        Parameters
        ----------
        images : uint8 (N, size, size, 3)
            Images as `view` gives them.
        row_index : int64 (N,)
            Which galaxies they are: dropout draws the same for a galaxy in whatever batch it comes.

        Returns
        -------
        float32 (N, A, D)
            For each of A outputs, D = members x orientations x passes predictions: Dirichlet concentrations of a tree,
            probabilities of classes, or values.
        """

        def predict(inputs: Tensor, galaxies: Tensor) -> tuple[Tensor]:
            predictions = [
                outputs[:, self._mirror_order] if number % 2 else outputs
                for member in self._members
                for number in range(self._orientations)
                for outputs in self._passes_of(member, oriented(inputs, number), galaxies)
            ]
            return (torch.stack(predictions, dim=2),)

        (predictions,) = self._engine.run(predict, images, row_index.astype(np.int64, copy=False))
        return predictions.astype(np.float32, copy=False)

    def _passes_of(self, member: _Prepared, inputs: Tensor, galaxies: Tensor) -> list[Tensor]:
        model = member.model
        seen = inputs[:, : model.architecture["in_chans"]]
        features: Tensor | None = None
        outputs = []
        for number in range(self._passes):
            if member.draws:
                self._draws.start(galaxies, number)
            try:
                if features is None or not member.in_head_only:
                    with self._engine.autocast():
                        features = model.encoder(seen)
                outputs.append(model.head(features.float()))
            finally:
                self._draws.stop()
        return outputs


@dataclass(frozen=True)
class _Prepared:
    model: ClassifierNet
    draws: bool
    """Whether dropout is on."""
    in_head_only: bool
    """Whether the encoder gives the same in every pass."""


class Embedder:
    """A variational autoencoder that gives coordinates in its latent space.

    Attributes
    ----------
    view : View
    dim : int
        Length of an embedding.
    digest : str
        SHA-256 of the model file.
    """

    def __init__(self, model: VAE, view: View, digest: str, engine: Engine) -> None:
        self.view = view
        self.dim = model.latent_dim
        self.digest = digest
        self._engine = engine
        self._model = engine.prepare(model)

    def embed(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Embed.

        Parameters
        ----------
        images : uint8 (N, size, size, 3)

        Returns
        -------
        embedding : float32 (N, dim)
            Mean of the latent distribution.
        reconstruction_error : float32 (N,)
            Squared difference of image and reconstruction, mean over pixels and channels, of brightnesses in [0, 1].
        """

        def embed(inputs: Tensor) -> tuple[Tensor, Tensor]:
            with self._engine.autocast():
                output = self._model(inputs)
            error = (output.reconstruction.float() - inputs).square().mean(dim=(1, 2, 3))
            return output.mean.float(), error

        embedding, error = self._engine.run(embed, images)
        return embedding.astype(np.float32, copy=False), error.astype(np.float32, copy=False)


class Segmenter:
    """A UNet that draws masks of spiral arms and bars.

    Attributes
    ----------
    view : View
    digest : str
        SHA-256 of the model file.
    """

    def __init__(self, model: UNet, view: View, digest: str, engine: Engine) -> None:
        self.view = view
        self.digest = digest
        self._engine = engine
        self._model = engine.prepare(model)

    def segment(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Draw masks.

        Parameters
        ----------
        images : uint8 (N, size, size, 3)

        Returns
        -------
        uint8 (N, 2, size, size)
            Spiral arms and bar; 255 is a pixel that every volunteer would mark.

        Raises
        ------
        FloatingPointError
            If the model's outputs are not finite: 8 bits cannot say so.
        """

        def segment(inputs: Tensor) -> tuple[Tensor, Tensor]:
            with self._engine.autocast():
                logits = self._model(inputs).float()
            finite = logits.isfinite().all(dim=(1, 2, 3))
            return torch.sigmoid(logits).mul_(255).round_().to(torch.uint8), finite

        masks, finite = self._engine.run(segment, images)
        if not finite.all():
            raise FloatingPointError("the model's outputs are not finite")
        return masks.astype(np.uint8, copy=False)
