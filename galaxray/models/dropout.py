"""Monte Carlo dropout (Gal & Ghahramani 2016) that gives a galaxy the same numbers in every run.

Which features are dropped is a hash of seed, galaxy, pass, layer and feature: it depends neither on the batch in which
a galaxy comes nor on the device, so that an interrupted run that goes on predicts what an undisturbed one would.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from galaxray.models.splitmix import mix, shift_right, signed

__all__ = ["Draws", "RowDropout", "make_repeatable"]


class Draws(threading.local):
    """Which draws the `RowDropout` layers of a model make next, in this thread.

    Attributes
    ----------
    rows : Tensor or None
        ``row_index`` of each image in the batch, int64 (N,); None switches dropout off.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.number = 0
        self.rows: Tensor | None = None

    def start(self, rows: Tensor, number: int) -> None:
        """Make the draws of pass ``number`` on these galaxies."""
        self.rows, self.number = rows, number

    def stop(self) -> None:
        """Switch dropout off."""
        self.rows = None


class RowDropout(nn.Module):
    """Dropout by `Draws`, out of training too.

    Parameters
    ----------
    p : float
        Probability that a feature is dropped.
    layer : int
        Number of this layer in the model: layers draw independently.
    draws : Draws
    """

    def __init__(self, p: float, layer: int, draws: Draws) -> None:
        super().__init__()
        self.p = p
        self.layer = layer
        self.draws = draws

    def forward(self, features: Tensor) -> Tensor:
        """Drop features of (N, ...) and scale the others up."""
        if self.draws.rows is None:
            return features
        key = torch.tensor(signed(self.draws.seed), dtype=torch.int64, device=features.device)
        for number in (self.draws.number, self.layer):
            key = mix(key ^ number)
        rows = mix(self.draws.rows ^ key)
        columns = torch.arange(features.shape[1:].numel(), device=features.device)
        hashed = mix(rows[:, None] + mix(columns)[None, :])
        keep = shift_right(hashed, 40) >= int(self.p * 2**24)  # the upper 24 bits are a fraction
        return features * keep.view_as(features) / (1 - self.p)


def make_repeatable(model: nn.Module, draws: Draws) -> list[str]:
    """Replace every dropout layer of a model by a `RowDropout`; one with ``p=0`` does nothing and is left out.

    Returns
    -------
    list of str
        Names of the layers replaced.
    """
    found = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, _DropoutNd) and layer.p > 0]
    for number, (name, layer) in enumerate(found):
        model.set_submodule(name, RowDropout(layer.p, number, draws))
    return [name for name, _ in found]
