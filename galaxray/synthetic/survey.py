"""How the synthetic sky is observed: seeing, depth, zero points, and the picture made of the fluxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BANDS", "NATIVE_PIXEL_ARCSEC", "Survey", "rgb"]

BANDS = "grz"
NATIVE_PIXEL_ARCSEC = 0.262
"""Flux is in nanomaggies per pixel of this size at any pixel scale, as in the Legacy Surveys viewer."""

# Scales of the Legacy Surveys viewer since DR9 (z, r, g to red, green, blue), for the stretch of Lupton et al. 2004.
_RGB_SCALES = np.array([2.2, 3.4, 6.0], dtype=np.float32)
_RGB_OFFSET = np.float32(0.03)
_RGB_SOFTENING = np.float32(20.0)


@dataclass(frozen=True)
class Survey:
    """One survey's view of the sky.

    Parameters
    ----------
    psf_fwhm_arcsec : tuple of float
        Seeing in g, r, z.
    sky_noise : tuple of float
        Standard deviation of the sky in g, r, z, nanomaggies per pixel of 0.262 arcsec.
    zero_point_offset_mag : tuple of float
        Added to every magnitude in g, r, z: how this survey's colours differ from the reference.
    max_dec_deg : float
        North of it this survey has no images.
    seed : int
        Seed of the noise.
    """

    psf_fwhm_arcsec: tuple[float, float, float] = (1.35, 1.25, 1.15)
    sky_noise: tuple[float, float, float] = (0.0024, 0.0038, 0.0105)
    zero_point_offset_mag: tuple[float, float, float] = (0.0, 0.0, 0.0)
    max_dec_deg: float = 84.0
    seed: int = 0

    def covers(self, dec_deg: float) -> bool:
        """Whether there is an image at this declination."""
        return dec_deg <= self.max_dec_deg


def rgb(flux: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Draw g, r, z fluxes as the Legacy Surveys viewer does.

    Parameters
    ----------
    flux : float32 (3, H, W)
        Nanomaggies per 0.262 arcsec pixel, bands g, r, z.

    Returns
    -------
    uint8 (H, W, 3)
        Red, green, blue. Pixels that are zero in every band (no data) are black.

    References
    ----------
    Lupton et al. 2004, PASP 116, 133, with the scales of the Legacy Surveys viewer (Dey et al. 2019).
    """
    colour = flux[::-1] * _RGB_SCALES[:, None, None]
    colour += _RGB_OFFSET
    np.maximum(colour, 0, out=colour)
    mean = colour.mean(axis=0)
    np.maximum(mean, np.float32(1e-6), out=mean)
    colour *= np.arcsinh(_RGB_SOFTENING * mean) / (np.sqrt(_RGB_SOFTENING) * mean)
    np.minimum(colour, 1, out=colour)
    colour *= np.float32(255.99)
    colour *= np.any(flux, axis=0)
    return np.ascontiguousarray(colour.astype(np.uint8).transpose(1, 2, 0))
