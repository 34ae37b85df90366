"""Turned, mirrored, shifted, scaled and dimmed copies of images: 8 bits in, on whatever device they are to be used.

A galaxy has no up and down, and lies near the middle of its cutout, not in it. What is drawn for an image belongs to
its row and the epoch (`galaxray.training.draws`), not to the batch in which it comes.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

__all__ = ["NUM_DRAWS", "AugmentConfig", "augment", "to_float"]

NUM_DRAWS = 10
"""Random numbers that an image takes."""

Fraction = Annotated[float, Field(ge=0, lt=1)]


class AugmentConfig(BaseModel):
    """How images are varied while a model learns; what is 0 or false is left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    rotate: Literal["any", "right-angles", "none"] = "any"
    """Turned by any angle, by multiples of 90 degrees (exact: no pixel is interpolated for it), or not."""
    mirror: bool = True
    """Half of the images mirrored; labels that tell the direction of spiral arms are swapped with them."""
    zoom: Fraction = 0.1
    """Enlarged or shrunk by up to this fraction."""
    shift: Fraction = 0.03
    """Moved by up to this fraction of the width."""
    brightness: Fraction = 0.1
    """All channels brighter or dimmer by up to this fraction."""
    colour: Fraction = 0.05
    """Each channel for itself brighter or dimmer by up to this fraction."""


def to_float(images: Tensor) -> Tensor:
    """8-bit images (N, H, W, C) as float32 (N, C, H, W) in [0, 1], channels last in memory."""
    return images.permute(0, 3, 1, 2).float().div_(255)


def augment(images: Tensor, draws: Tensor, config: AugmentConfig) -> tuple[Tensor, Tensor]:
    """Vary images.

    Parameters
    ----------
    images : Tensor of uint8, (N, S, S, 3)
    draws : Tensor of float32, (N, NUM_DRAWS)
        Uniform in [0, 1); see `galaxray.training.draws.StepDraws.of_images`.
    config : AugmentConfig

    Returns
    -------
    images : Tensor of float32, (N, 3, S, S)
        In [0, 1].
    mirrored : Tensor of bool, (N,)
        Which of them were mirrored.
    """
    draws = draws.to(images.device)
    signed = 2 * draws - 1
    mirrored = (draws[:, 0] < 0.5) & config.mirror
    varied = _moved(to_float(images), draws, signed, mirrored, config)
    gain = 1 + config.brightness * signed[:, 5:6] + config.colour * signed[:, 6:9]
    return (varied * gain[:, :, None, None]).clamp_(0, 1), mirrored


def _moved(images: Tensor, draws: Tensor, signed: Tensor, mirrored: Tensor, config: AugmentConfig) -> Tensor:
    if config.rotate != "any" and config.zoom == config.shift == 0:
        return _symmetries(images, (4 * draws[:, 1]).long() * (config.rotate == "right-angles"), mirrored)
    turn = {"any": draws[:, 1], "right-angles": (4 * draws[:, 1]).floor() / 4, "none": 0 * draws[:, 1]}[config.rotate]
    angle, scale = 2 * math.pi * turn, 1 / (1 + config.zoom * signed[:, 2])
    cosine, sine = scale * torch.cos(angle), scale * torch.sin(angle)
    side = torch.where(mirrored, -1.0, 1.0)
    shift = 2 * config.shift * signed[:, 3:5]
    rows = torch.stack([side * cosine, -sine, shift[:, 0], side * sine, cosine, shift[:, 1]], dim=1)
    grid = functional.affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)
    # What comes in from beyond the edge is sky like that inside it, not a black corner that no survey has.
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _symmetries(images: Tensor, quarters: Tensor, mirrored: Tensor) -> Tensor:
    """Each image by one of the 8 symmetries of a square, without touching a pixel's value."""
    turned = torch.empty_like(images)
    for number in range(4):
        which = quarters == number
        turned[which] = torch.rot90(images[which], number, (2, 3))
    return torch.where(mirrored[:, None, None, None], turned.flip(3), turned)
