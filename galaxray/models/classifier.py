"""The classifier: any timm encoder and a head for a decision tree, classes or regression.

The tree head is Zoobot's (Walmsley et al. 2022, MNRAS 509, 3966): ``Dropout -> Linear -> 100 sigmoid(x) + 1``, the
concentrations of one Dirichlet distribution per question.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

import timm
import torch
from torch import Tensor, nn

__all__ = ["FORBIDDEN_OPTIONS", "ClassifierNet", "Head", "Task", "is_architecture"]

Task = Literal["tree", "classes", "regression"]

FORBIDDEN_OPTIONS = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
"""Of ``timm.create_model``: with these a model file could make it read other files or ask the network."""


def is_architecture(name: object) -> bool:
    """Whether a name is that of an architecture of timm, and no more.

    ``timm.create_model`` also takes addresses (``hf-hub:owner/name``, ``local-dir:/folder``), for which it asks the
    network or reads other files; a model file must not make it do so.
    """
    return isinstance(name, str) and bool(re.fullmatch(r"\w+(\.\w+)?", name)) and timm.is_model(name)


class Head(nn.Module):
    """``Dropout -> Linear -> activation`` on pooled features.

    Parameters
    ----------
    features : int
        Length of the encoder's feature vector.
    outputs : int
        Number of answers, classes or targets.
    task : {"tree", "classes", "regression"}
        What the outputs mean.
    dropout : float
        Probability of dropping a feature, in training and in Monte Carlo passes.
    unit_interval : bool
        Regression only: squeeze the outputs into (0, 1) with a sigmoid.
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        task: Task,
        dropout: float = 0.0,
        unit_interval: bool = False,
    ) -> None:
        super().__init__()
        if task not in get_args(Task):
            raise ValueError(f"unknown task {task!r}: one of {', '.join(get_args(Task))}")
        self.task: Task = task
        self.unit_interval = unit_interval
        self.dropout: nn.Module = nn.Dropout(dropout)
        self.linear = nn.Linear(features, outputs)

    def logits(self, features: Tensor) -> Tensor:
        """Compute the outputs before the activation, (N, outputs)."""
        logits: Tensor = self.linear(self.dropout(features))
        return logits

    def forward(self, features: Tensor) -> Tensor:
        """Concentrations in (1, 101) for a tree, probabilities for classes, values for regression; (N, outputs)."""
        return self.activation(self.logits(features))

    def activation(self, logits: Tensor) -> Tensor:
        """Compute the outputs from `logits`."""
        if self.task == "tree":
            return 100.0 * torch.sigmoid(logits) + 1.0
        if self.task == "classes":
            return torch.softmax(logits, dim=1)
        return torch.sigmoid(logits) if self.unit_interval else logits


class ClassifierNet(nn.Module):
    """A timm encoder with a `Head`.

    Parameters
    ----------
    arch : str
        Name of a timm architecture, e.g. ``convnext_nano``; its weights are never downloaded.
    outputs : int
        Number of answers, classes or targets.
    task : {"tree", "classes", "regression"}
        What the outputs mean.
    dropout, unit_interval
        See `Head`.
    in_chans : int
        3 for colour images, 1 for greyscale.
    encoder_options : mapping, optional
        More keyword arguments of ``timm.create_model``, e.g. ``{"drop_path_rate": 0.1}``.

    Notes
    -----
    Input is float (N, in_chans, H, W) in [0, 1]; there is no normalisation by mean and standard deviation.
    """

    def __init__(
        self,
        arch: str,
        outputs: int,
        task: Task = "tree",
        dropout: float = 0.0,
        unit_interval: bool = False,
        in_chans: int = 3,
        encoder_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.architecture: dict[str, Any] = {
            "arch": arch,
            "outputs": outputs,
            "task": task,
            "dropout": dropout,
            "unit_interval": unit_interval,
            "in_chans": in_chans,
            "encoder_options": dict(encoder_options or {}),
        }
        if FORBIDDEN_OPTIONS & self.architecture["encoder_options"].keys():
            raise ValueError(f"encoder_options must hold none of {', '.join(sorted(FORBIDDEN_OPTIONS))}")
        if not is_architecture(arch):
            raise ValueError(f"timm has no architecture {arch!r}")
        self.encoder: nn.Module = timm.create_model(
            arch,
            pretrained=False,
            num_classes=0,
            in_chans=in_chans,
            **self.architecture["encoder_options"],
        )
        # MobileNetV3's num_features is not the length of what it gives
        features: Any = getattr(self.encoder, "head_hidden_size", None) or self.encoder.num_features
        self.head = Head(features, outputs, task, dropout, unit_interval)

    def logits(self, images: Tensor) -> Tensor:
        """Compute the outputs before the activation, (N, outputs): what a cross-entropy loss wants."""
        return self.head.logits(self.encoder(images))

    def forward(self, images: Tensor) -> Tensor:
        """Concentrations, probabilities or values, (N, outputs)."""
        outputs: Tensor = self.head(self.encoder(images))
        return outputs
