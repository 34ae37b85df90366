"""A UNet that draws where volunteers would mark spiral arms and bars.

After Ronneberger et al. (2015) and, for galaxies, Walmsley & Spindler (2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["UNet"]


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """Two convolutions per level, max pooling down, bilinear up, with skips.

    Parameters
    ----------
    channels : sequence of int
        Channels of each level, e.g. ``(16, 32, 64, 128)``.
    classes : int
        Number of masks: spiral arms and bar.
    size : int
        Width and height of the images in pixels; divisible by ``reduce * 2**(levels - 1)``.
    reduce : int
        Work at ``size / reduce`` pixels, and enlarge the result: 2 costs a quarter of the time.

    Notes
    -----
    Input is float (N, 3, size, size) in [0, 1]; output are logits (N, classes, size, size), whose sigmoid is the
    fraction of volunteers who marked the pixel.
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64, 128),
        classes: int = 2,
        size: int = 224,
        reduce: int = 1,
    ) -> None:
        super().__init__()
        grain = reduce * 2 ** (len(channels) - 1)
        if size % grain:
            raise ValueError(f"image size {size} is not divisible by {grain}, as {len(channels)} levels ask")
        self.architecture: dict[str, Any] = {
            "channels": list(channels),
            "classes": classes,
            "size": size,
            "reduce": reduce,
        }
        self.reduce = reduce
        self.down = nn.ModuleList(_block(*pair) for pair in zip([3, *channels], channels, strict=False))
        pairs = zip(channels[:0:-1], channels[-2::-1], strict=True)
        self.up = nn.ModuleList(_block(deep + shallow, shallow) for deep, shallow in pairs)
        self.final = nn.Conv2d(channels[0], classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes, H, W) of the fraction of volunteers who marked each pixel."""
        hidden = functional.avg_pool2d(images, self.reduce) if self.reduce > 1 else images
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            hidden = block(functional.max_pool2d(hidden, 2) if level else hidden)
            skips.append(hidden)
        skips.pop()
        for block in self.up:
            hidden = _enlarge(hidden, 2)
            hidden = block(torch.cat([hidden, skips.pop()], dim=1))
        logits: Tensor = self.final(hidden)
        return _enlarge(logits, self.reduce) if self.reduce > 1 else logits


def _enlarge(images: Tensor, factor: int) -> Tensor:
    return functional.interpolate(images, scale_factor=float(factor), mode="bilinear", align_corners=False)
