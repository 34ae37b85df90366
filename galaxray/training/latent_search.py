"""How good autoencoders of several latent sizes are, on galaxies that none of them was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from galaxray.errors import ConfigError
from galaxray.models.vae import VAE
from galaxray.models.weights import load_model
from galaxray.training.labelled_images import LabelledImages
from galaxray.training.labels import targets_for
from galaxray.training.latent_classifiers import accuracies
from galaxray.training.scores import pca_reconstruction_error, score_reconstruction
from galaxray.training.train_vae import VAEData, VAESettings, open_data
from galaxray.training.training_folder import decoded
from galaxray.training.vae_task import outputs_of
from galaxray.training.workers import ALONE

__all__ = ["Searched", "compare", "folder_of", "require_sizes"]

EXAMPLES = 8
PCA_BYTES = 2**30
"""Most memory for the images that principal components are found on: their number is limited, not their pixels."""
GOOD_ENOUGH = 1.02
"""A smaller latent space is as good as a larger one if its validation loss is within this factor of it."""

Figures = dict[str, float]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What a search found.

    Attributes
    ----------
    sizes : dict of int to dict
        Figures by latent size; see `compare`.
    suggested : int
        The smallest size whose validation loss is within `GOOD_ENOUGH` of the least.
    split : str
        Which galaxies the figures are of.
    galaxies : dict of str to int
        How many: ``train`` (behind the PCA and the classifiers), ``held_out``, and ``labelled`` of these.
    classes : tuple of str
        Names of the classes; empty without labels.
    digest : str
        Of the data set.
    originals : ndarray of uint8, (M, S, S, 3)
        Some of the galaxies, spread over the split.
    reconstructions : dict of int to ndarray of uint8, (M, S, S, 3)
        The same ones, by latent size.
    """

    sizes: dict[int, Figures]
    suggested: int
    split: str
    galaxies: dict[str, int]
    classes: tuple[str, ...]
    digest: str
    originals: Pixels
    reconstructions: dict[int, Pixels]


def folder_of(output: Path, latent_dim: int) -> Path:
    """Where, in the folder of a search, one size is trained."""
    return output / f"latent-{latent_dim:03d}"


def require_sizes(latent_dims: tuple[int, ...]) -> None:
    """Refuse a list of latent sizes that cannot be searched.

    Raises
    ------
    ConfigError
    """
    wrong = next((size for size in latent_dims if size < 1), None)
    if wrong is not None:
        raise ConfigError(f"--latent-dims {wrong}: a latent size is a whole number from 1")
    twice = next((size for size in latent_dims if latent_dims.count(size) > 1), None)
    if twice is not None:
        raise ConfigError(f"--latent-dims names {twice} twice")


def compare(settings: VAESettings, models: Mapping[int, Path]) -> Searched:
    """Score autoencoders of several sizes on the test split (that of validation, if there is no other).

    Parameters
    ----------
    settings : VAESettings
    models : mapping of int to Path
        Model files by latent size.

    Returns
    -------
    Searched
        For each size ``validation_loss`` (of the weights that were chosen by it) and, held out: ``mse`` per pixel and
        channel, images in [0, 1]; ``pca_mse`` of as many principal components; ``kl`` in nats per image;
        ``active`` dimensions; with labels those of `galaxray.training.latent_classifiers.accuracies`.
    """
    data = open_data(settings)
    train, held_out = (_some(data.parts[name], settings) for name in ("train", data.split))
    seen, unseen = (decoded(images, settings.view, settings.cache, ALONE) for images in (train, held_out))
    pca = pca_reconstruction_error(seen, unseen, tuple(sorted(models)))
    shown = np.linspace(0, len(held_out) - 1, min(EXAMPLES, len(held_out))).astype(int)
    classes = _classes(data, train, held_out)
    sizes: dict[int, Figures] = {}
    reconstructions = {}
    for size, path in sorted(models.items()):
        module, card = load_model(path, "vae")
        model = cast(VAE, module)
        figures, latents, reconstructions[size] = _judge(model, unseen, shown)
        best = float(card["training"]["best"]["validation_loss"])
        sizes[size] = {"validation_loss": best, **figures, "pca_mse": pca[size]}
        if classes is not None:
            (known, index), (known_held, index_held) = classes
            learned = _latents(model, seen)
            sizes[size] |= accuracies(learned[known], index[known], latents[known_held], index_held[known_held])
    least = min(figures["validation_loss"] for figures in sizes.values())
    suggested = next(size for size, figures in sizes.items() if figures["validation_loss"] <= GOOD_ENOUGH * least)
    labelled = {} if classes is None else {"labelled": int(classes[1][0].sum())}
    return Searched(
        sizes=sizes,
        suggested=suggested,
        split=data.split,
        galaxies={"train": len(train), "held_out": len(held_out), **labelled},
        classes=() if data.labels is None else data.labels.classes,
        digest=data.digest,
        originals=np.asarray(unseen[shown]),
        reconstructions=reconstructions,
    )


def _some(images: LabelledImages, settings: VAESettings) -> LabelledImages:
    """As many galaxies as the memory for principal components allows, spread over all of them."""
    most = max(64, PCA_BYTES // (settings.size**2 * 3 * 4))
    if len(images) <= most:
        return images
    mask = np.zeros(len(images), bool)
    mask[np.linspace(0, len(images) - 1, most).astype(int)] = True
    return images.where(mask)


Labelled = tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]


def _classes(data: VAEData, train: LabelledImages, held_out: LabelledImages) -> tuple[Labelled, Labelled] | None:
    """Which galaxies have a class, and which one; of training and held-out galaxies."""
    if data.labels is None:
        return None
    train_class, held_class = (targets_for("classes", images, data.labels) for images in (train, held_out))
    return (train_class >= 0, train_class), (held_class >= 0, held_class)


def _judge(
    model: VAE, pixels: Pixels, shown: npt.NDArray[np.integer]
) -> tuple[Figures, npt.NDArray[np.float32], Pixels]:
    """Figures, latents, and what the model makes of some of the images."""
    errors, means, divergences, pictures = [], [], [], []
    for images, output in outputs_of(model, pixels):
        errors.append((output.reconstruction - images).square().mean((1, 2, 3)))
        means.append(output.mean)
        divergences.append(VAE.loss(output, images)[2] * len(images))
    for _, output in outputs_of(model, pixels[shown]):
        pictures.append(output.reconstruction.mul(255).round().byte().permute(0, 2, 3, 1))
    latents = torch.cat(means).numpy()
    scores = score_reconstruction(torch.cat(errors).numpy(), latents)
    figures: dict[str, Any] = {
        "mse": scores["mse"],
        "active": scores["active_dims"],
        "kl": float(torch.stack(divergences).sum()) / len(pixels),
    }
    return figures, latents, torch.cat(pictures).numpy()


def _latents(model: VAE, pixels: Pixels) -> npt.NDArray[np.float32]:
    latents: npt.NDArray[np.float32] = torch.cat([output.mean for _, output in outputs_of(model, pixels)]).numpy()
    return latents
