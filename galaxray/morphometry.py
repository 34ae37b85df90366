"""Numbers measured from masks."""

from __future__ import annotations

import numpy as np

__all__ = ["bar_length_and_angle", "marked_fraction"]

HALF = 128
"""Mask value from which half of the volunteers would mark the pixel."""


def marked_fraction(mask: np.ndarray) -> float:
    """Share of pixels that at least half of the volunteers would mark.

    Parameters
    ----------
    mask : ndarray of uint8, shape (H, W)
        255 = every volunteer.
    """
    return float(np.mean(mask >= HALF))


def bar_length_and_angle(mask: np.ndarray, pixel_scale_arcsec: float) -> tuple[float, float]:
    """Full length and position angle of a bar, from the second moments of its mask.

    A uniform ellipse of semi-major axis ``a`` has variance ``a**2 / 4`` along it, so the length is four times the
    square root of the larger eigenvalue of the covariance of the marked pixels.

    Parameters
    ----------
    mask : ndarray of uint8, shape (H, W)
        255 = every volunteer; row 0 is north, column 0 is east.
    pixel_scale_arcsec : float
        Of the mask, in arcsec per pixel.

    Returns
    -------
    length_arcsec, angle_deg : float
        Position angle in degrees east of north, in [0, 180). Both NaN where fewer than three pixels are marked.
    """
    rows, columns = np.nonzero(mask >= HALF)
    if len(rows) < 3:
        return float("nan"), float("nan")
    north, east = -rows.astype(float), -columns.astype(float)
    eigenvalues, eigenvectors = np.linalg.eigh(np.cov(np.stack([north, east])))
    length = 4 * np.sqrt(max(eigenvalues[1], 0.0)) * pixel_scale_arcsec
    angle = np.degrees(np.arctan2(eigenvectors[1, 1], eigenvectors[0, 1])) % 180
    return float(length), float(angle)
