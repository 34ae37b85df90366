"""A convolutional variational autoencoder of galaxy images (Kingma & Welling 2014; for galaxies Xu et al. 2023)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["VAE", "VAEOutput"]

SMALLEST = 4  # pixels on a side where the convolutions end and the linear layers begin


class VAEOutput(NamedTuple):
    """What one pass through a `VAE` gives."""

    reconstruction: Tensor
    """(N, 3, size, size) in [0, 1]."""
    mean: Tensor
    """(N, latent_dim): mean of the latent distribution, the embedding."""
    log_variance: Tensor
    """(N, latent_dim)."""


def _down(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.1),
    )


def _up(inputs: int, outputs: int) -> nn.Sequential:
    # nearest neighbour and convolution: transposed convolutions leave a checkerboard
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.1),
    )


class VAE(nn.Module):
    """Convolutions down to 4x4, a Gaussian latent space, and the way back.

    Parameters
    ----------
    latent_dim : int
        Length of the embedding.
    size : int
        Width and height of the images in pixels: a power of two from 16.
    channels : int
        Channels of the first level; they double with each level up to ``max_channels``.
    max_channels : int
        Channels of the deepest level at most.

    Notes
    -----
    Input is float (N, 3, size, size) in [0, 1].
    """

    def __init__(
        self,
        latent_dim: int = 40,
        size: int = 64,
        channels: int = 32,
        max_channels: int = 256,
    ) -> None:
        super().__init__()
        if size < 16 or size & (size - 1):
            raise ValueError(f"image size {size} is not a power of two from 16")
        self.architecture: dict[str, Any] = {
            "latent_dim": latent_dim,
            "size": size,
            "channels": channels,
            "max_channels": max_channels,
        }
        levels = (size // SMALLEST).bit_length() - 1
        widths = [min(channels * 2**level, max_channels) for level in range(levels)]
        self.latent_dim = latent_dim
        self.deepest = (widths[-1], SMALLEST, SMALLEST)
        flat = widths[-1] * SMALLEST**2
        self.encoder = nn.Sequential(
            *(_down(*pair) for pair in zip([3, *widths], widths, strict=False)),
            nn.Flatten(),
        )
        self.to_mean = nn.Linear(flat, latent_dim)
        self.to_log_variance = nn.Linear(flat, latent_dim)
        self.from_latent = nn.Linear(latent_dim, flat)
        backward = widths[::-1]
        self.decoder = nn.Sequential(
            *(_up(*pair) for pair in zip(backward, [*backward[1:], channels], strict=True)),
            nn.Conv2d(channels, 3, 3, padding=1),
        )

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latent distribution, each (N, latent_dim)."""
        hidden = self.encoder(images)
        # bounded, so that one wild image cannot make exp() overflow
        return self.to_mean(hidden), self.to_log_variance(hidden).clamp(-12.0, 12.0)

    def decode(self, latent: Tensor) -> Tensor:
        """Images (N, 3, size, size) in [0, 1] from latent vectors (N, latent_dim)."""
        images: Tensor = torch.sigmoid(self.decoder(self.from_latent(latent).unflatten(1, self.deepest)))
        return images

    def forward(self, images: Tensor) -> VAEOutput:
        """Encode, draw from the latent distribution (its mean, out of training), decode."""
        mean, log_variance = self.encode(images)
        latent = mean
        if self.training:
            latent = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        return VAEOutput(self.decode(latent), mean, log_variance)

    @staticmethod
    def loss(output: VAEOutput, images: Tensor, beta: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """Loss per image, averaged over the batch.

        Returns
        -------
        loss, squared_error, divergence : Tensor
            ``loss = squared_error + beta * divergence``: the squared error summed over pixels and the Kullback-Leibler
            divergence from the unit Gaussian summed over latent dimensions.
        """
        squared_error = (output.reconstruction - images).square().flatten(1).sum(1).mean()
        terms = 1 + output.log_variance - output.mean.square() - output.log_variance.exp()
        divergence = -0.5 * terms.sum(1).mean()
        return squared_error + beta * divergence, squared_error, divergence
