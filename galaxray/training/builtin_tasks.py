"""The three built-in models as tasks of `galaxray.training.loop.Trainer`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from galaxray.models.classifier import ClassifierNet
from galaxray.models.unet import UNet
from galaxray.models.vae import VAE
from galaxray.training.dataset import SkyDataset
from galaxray.training.draws import StepDraws
from galaxray.training.loop import LoopConfig
from galaxray.training.losses import dirichlet_multinomial_loss, mask_loss, saturation_loss, vote_cross_entropy
from galaxray.training.rates import Stretch, everything
from galaxray.training.scores import MASK_NAMES, score_masks, score_votes
from galaxray.training.task import Report
from galaxray.trees import DecisionTree, load_tree

__all__ = [
    "RECIPES",
    "ClassifierTask",
    "ModelName",
    "SegmenterTask",
    "SkyTask",
    "VAETask",
    "dihedral",
    "jitter",
    "make_task",
]

ModelName = Literal["classifier", "vae", "segmenter"]

RECIPES: dict[ModelName, LoopConfig] = {
    "classifier": LoopConfig(epochs=12, batch_size=32, learning_rate=1.5e-3),
    "vae": LoopConfig(epochs=8, batch_size=64, learning_rate=2e-3),
    "segmenter": LoopConfig(epochs=10, batch_size=64, learning_rate=2e-3),
}
"""How the built-in weights were trained."""

TREE = "gz_decals_5"


def dihedral(tensors: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Turn and mirror images, and their masks alike: each of the 8 symmetries of a square on an eighth of the batch.

    Votes of the Galaxy Zoo trees with spiral winding (not handedness) do not change under it.

    Parameters
    ----------
    tensors : sequence of Tensor, each (N, C, S, S)
        All are treated in the same way. The batch must be in random order.
    """
    symmetries = torch.randperm(8, generator=generator).tolist()
    parts = [tensor.tensor_split(8) for tensor in tensors]
    return [torch.cat([_symmetry(p, k) for p, k in zip(part, symmetries, strict=True)]) for part in parts]


def _symmetry(images: Tensor, index: int) -> Tensor:
    turned = torch.rot90(images, index % 4, (2, 3))
    return turned.flip(3) if index >= 4 else turned


def jitter(images: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Change brightness and colour a little and add noise, so that a model does not rest on the depth of one survey.

    Parameters
    ----------
    images : Tensor, (N, 3, H, W)
        In [0, 1].
    strength : float
        1: gains within 15 %, offsets within 0.02, noise up to 0.02 of the full range.
    """
    num = len(images)
    gain = 1 + strength * 0.15 * (2 * torch.rand(num, 3, 1, 1, generator=generator) - 1)
    offset = strength * 0.02 * (2 * torch.rand(num, 3, 1, 1, generator=generator) - 1)
    sigma = strength * 0.02 * torch.rand(num, 1, 1, 1, generator=generator)
    noise = torch.randn(images.shape, generator=generator).to(memory_format=torch.channels_last)
    return (images * gain + offset + sigma * noise).clamp(0, 1)


def to_float(images: np.ndarray) -> Tensor:
    """Images uint8 (N, H, W, C) as a float tensor (N, C, H, W) in [0, 1], channels last in memory."""
    # a copy: torch warns of memory maps, which cannot be written to
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float().div_(255)


class SkyTask(ABC):
    """What the three tasks have in common: images of a data set in random order.

    Parameters
    ----------
    model : nn.Module
        The network that is wanted; ``model``, which is trained, may be more than that.
    train, validation : SkyDataset
    rows : ndarray of int, optional
        Which galaxies of ``train``; all of them otherwise.
    """

    def __init__(
        self, model: nn.Module, train: SkyDataset, validation: SkyDataset, rows: np.ndarray | None = None
    ) -> None:
        self.model = self.network = model
        self.train = train
        self.validation = validation
        self.rows = np.arange(len(train)) if rows is None else rows

    @property
    def description(self) -> dict[str, object]:
        """What the model's card says of its outputs."""
        return {}

    @property
    def num_images(self) -> int:
        """Galaxies that are trained on."""
        return len(self.rows)

    def stretches(self, epochs: int) -> Sequence[Stretch]:
        """Everything is trained from the beginning."""
        return everything(self.model, epochs)

    def batch(self, rows: np.ndarray, draws: StepDraws) -> tuple[Tensor, ...]:
        """Augmented images of some galaxies, and what the loss needs beside them."""
        return self.augmented(self.rows[rows], draws.generator())

    def finished(self, model: nn.Module) -> nn.Module:
        """Give the part of a trained model that is kept."""
        return model

    @abstractmethod
    def augmented(self, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, ...]:
        """What `batch` gives, for rows of the data set."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        """Mean loss of a batch; ``progress`` goes from 0 to 1 over the whole training."""

    @abstractmethod
    def validate(self, model: nn.Module) -> Report:
        """Compute figures of merit on the validation set."""

    def evaluation_images(self, batch_size: int = 64) -> Iterator[tuple[slice, Tensor]]:
        """Images of the validation set as they are."""
        for start in range(0, len(self.validation), batch_size):
            rows = slice(start, start + batch_size)
            yield rows, to_float(self.validation.images[rows])


class _WithSketch(nn.Module):
    """A classifier whose encoder also draws coarse masks, from its last layer but one."""

    def __init__(self, net: ClassifierNet, layer: int = 3) -> None:
        super().__init__()
        self.net, self.layer = net, layer
        encoder: Any = net.encoder  # of timm, whose methods type checkers do not see
        channels = int(encoder.feature_info[layer]["num_chs"])
        self.sketch = nn.Sequential(nn.Conv2d(channels, 2 * 16, 1), nn.PixelShuffle(4))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the answers, and of the masks."""
        encoder: Any = self.net.encoder
        final, (inner,) = encoder.forward_intermediates(images, indices=[self.layer])
        return self.net.head.logits(encoder.forward_head(final)), self.sketch(inner)


class ClassifierTask(SkyTask):
    """Votes on a decision tree by the Dirichlet-multinomial loss.

    While it learns, the encoder also has to sketch the masks of arms and bars from an inner layer. A vote says that
    there is a bar, a mask says where: it is found in a small part of the steps. Joint training of votes and masks is
    that of Walmsley & Spindler 2023 (arXiv:2312.02908).
    """

    sketch_weight = 10.0
    warm_up_weight = 40.0

    def __init__(self, model: ClassifierNet, train: SkyDataset, validation: SkyDataset, tree: DecisionTree) -> None:
        super().__init__(model, train, validation)
        self.tree = tree
        self.groups = [slice(q.start, q.stop) for q in tree.questions]
        self.head = model.head
        self.model = _WithSketch(model)

    @property
    def description(self) -> dict[str, object]:
        """The decision tree."""
        return {"tree": self.tree.name, "labels": list(self.tree.labels)}

    def augmented(self, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Images, votes, and masks (N, 2, H / 4, W / 4)."""
        masks = functional.avg_pool2d(torch.from_numpy(self.train.masks[rows]).float().div_(255), 4)
        images, masks = dihedral([to_float(self.train.images[rows]), masks], generator)
        return jitter(images, generator), torch.from_numpy(self.train.votes[rows]).float(), masks

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        """Negative log-likelihood of the votes, and the error of the sketch; mean over galaxies.

        The likelihood alone gets stuck. Where volunteers agree on each galaxy, but what tells galaxies apart is not
        seen yet, its best guess is the least concentration, 1, for every answer: at logits so low that the sigmoid
        passes no gradient on. So over the first 60 % a cross-entropy of the votes is added and fades out, and for as
        long the logits are kept where the sigmoid still slopes.
        """
        images, votes, masks = batch
        logits, sketch = model(images)
        concentrations = self.head.activation(logits)
        loss = dirichlet_multinomial_loss(concentrations, votes, self.groups).mean()
        fading = max(0.0, 1 - progress / 0.6)
        if fading:
            entropy = vote_cross_entropy(concentrations, votes, self.groups)
            loss = loss + fading * (self.warm_up_weight * entropy + saturation_loss(logits).mean())
        return loss + self.sketch_weight * mask_loss(sketch, masks).mean()

    def validate(self, model: nn.Module) -> Report:
        """Compute the negative log-likelihood, and the errors of vote fractions, without augmentation."""
        net = self.finished(model)
        with torch.inference_mode():
            concentrations = torch.cat([net(images) for _, images in self.evaluation_images()])
        votes = np.asarray(self.validation.votes)
        loss = dirichlet_multinomial_loss(concentrations, torch.from_numpy(votes.copy()).float(), self.groups)
        scores = score_votes(concentrations[:, :, None].numpy(), self.tree, votes, self.validation.probabilities)
        errors = {f"validation_{name}": value for name, value in scores.items() if "mae" in name}
        return {"validation_loss": float(loss.mean()), **errors}

    def finished(self, model: nn.Module) -> nn.Module:
        """Leave the sketch behind."""
        net: nn.Module = model.get_submodule("net")
        return net


class VAETask(SkyTask):
    """Images by squared error and a divergence whose weight grows over the first quarter of the training."""

    def __init__(self, model: VAE, train: SkyDataset, validation: SkyDataset, beta: float) -> None:
        super().__init__(model, train, validation)
        self.beta = beta

    @property
    def description(self) -> dict[str, object]:
        """Weight of the divergence."""
        return {"beta": self.beta}

    def augmented(self, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Images, turned and mirrored only: they are the target too."""
        return tuple(dihedral([to_float(self.train.images[rows])], generator))

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        """Squared error plus beta times the divergence, mean over galaxies."""
        output = model(batch[0])
        beta = self.beta * min(1.0, progress / 0.25)
        return VAE.loss(type(output)(*(t.float() for t in output)), batch[0], beta)[0]

    def validate(self, model: nn.Module) -> Report:
        """Mean squared error per pixel and channel of the reconstruction."""
        total = 0.0
        with torch.inference_mode():
            for _, images in self.evaluation_images():
                total += float((model(images).reconstruction - images).square().mean()) * len(images)
        return {"validation_loss": total / len(self.validation)}


class SegmenterTask(SkyTask):
    """Fractions of volunteers who marked each pixel; galaxies without marks are examples too.

    Parameters
    ----------
    unmarked : float
        Galaxies without marks, per galaxy with marks.
    """

    def __init__(self, model: UNet, train: SkyDataset, validation: SkyDataset, unmarked: float = 0.5) -> None:
        marked = np.flatnonzero(train.marked.any(axis=1))
        others = np.flatnonzero(~train.marked.any(axis=1))
        rows = np.concatenate([marked, others[: int(unmarked * len(marked))]])
        super().__init__(model, train, validation, rows)

    @property
    def description(self) -> dict[str, object]:
        """The masks."""
        return {"masks": ["spiral", "bar"], "loss": "cross-entropy with fractions of volunteers + 0.1 Dice"}

    def augmented(self, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Images and mask fractions (N, 2, H, W)."""
        masks = torch.from_numpy(self.train.masks[rows]).float().div_(255)
        images, masks = dihedral([to_float(self.train.images[rows]), masks], generator)
        return jitter(images, generator), masks

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        """`mask_loss`, mean over galaxies."""
        return mask_loss(model(batch[0]), batch[1]).mean()

    def validate(self, model: nn.Module) -> Report:
        """Compute the loss without augmentation, and the mean intersection over union of arms and of bars."""
        predicted, loss = self._predict(model)
        scores = score_masks(predicted, np.asarray(self.validation.masks))
        return {"validation_loss": loss} | {f"validation_{name}": scores[name] for name in scores if "iou" in name}

    def finished(self, model: nn.Module) -> nn.Module:
        """Move the last biases so that the masks fit best, on the validation set, where they are cut at one half.

        The mean of an uncertain mask is wider and flatter than its median: without this, half of the volunteers
        would be predicted too rarely.
        """
        if not isinstance(model, UNet):
            raise TypeError(f"a UNet was trained, not a {type(model).__name__}")
        (predicted, _), volunteers = self._predict(model), np.asarray(self.validation.masks)
        scores = {cut: score_masks(predicted, volunteers, cut) for cut in range(64, 161, 8)}
        for channel, name in enumerate(MASK_NAMES):
            best = max(scores, key=lambda cut: np.nan_to_num(scores[cut][f"{name}_iou"]))
            with torch.no_grad():
                model.final.get_parameter("bias")[channel] -= math.log(best / (255 - best))
        return model

    def _predict(self, model: nn.Module) -> tuple[npt.NDArray[np.uint8], float]:
        """Masks of the validation set, and the mean loss."""
        predicted, losses = np.empty(self.validation.masks.shape, np.uint8), []
        with torch.inference_mode():
            for rows, images in self.evaluation_images():
                logits = model(images)
                losses.append(mask_loss(logits, torch.from_numpy(self.validation.masks[rows] / np.float32(255))))
                predicted[rows] = logits.sigmoid().mul(255).round().byte().numpy()
        return predicted, float(torch.cat(losses).mean())


def make_task(name: ModelName, train: SkyDataset, validation: SkyDataset, seed: int) -> SkyTask:
    """Make the built-in model of this name, with random weights, and say what to train it on."""
    torch.manual_seed(seed)
    size = train.config.view_size
    if name == "classifier":
        tree = load_tree(TREE)
        # a ResNet-18 of half the width: without grouped convolutions, which are slow to train on a CPU
        encoder = {"channels": [32, 64, 128, 192], "drop_path_rate": 0.05}
        net = ClassifierNet("resnet18", len(tree), "tree", dropout=0.2, encoder_options=encoder)
        return ClassifierTask(net, train, validation, tree)
    if name == "vae":
        return VAETask(VAE(latent_dim=16, size=size, channels=16, max_channels=128), train, validation, beta=0.02)
    return SegmenterTask(UNet((16, 32, 64, 96, 128), size=size, reduce=2), train, validation)
