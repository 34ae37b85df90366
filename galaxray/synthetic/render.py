"""Pictures of the synthetic sky: sources, seeing and noise on a grid of pixels."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from galaxray.synthetic.artifacts import add_artifact, add_bright_star
from galaxray.synthetic.galaxy import random_generator
from galaxray.synthetic.profiles import add_galaxy
from galaxray.synthetic.sky import (
    BRIGHT_STAR_REACH_ARCSEC,
    bright_stars_in,
    field_sources_in,
    galaxies_in,
    sky_offsets_arcsec,
)
from galaxray.synthetic.survey import BANDS, NATIVE_PIXEL_ARCSEC, Survey, rgb

__all__ = ["Frame", "cutout", "image"]

_LARGEST_GALAXY_ARCSEC = 70.0
_COARSEST_FIELD_ARCSEC = 2.0
_NATIVE_AREA = NATIVE_PIXEL_ARCSEC**2

# A faint galaxy is a sunflower of points with exponential density: after the seeing nobody can tell.
_NUM_POINTS = 24
_SCALE_LENGTHS = np.linspace(0, 8, 200)
_LIGHT_WITHIN = 1 - np.exp(-_SCALE_LENGTHS) * (1 + _SCALE_LENGTHS)
_POINT_RADII = np.interp((np.arange(_NUM_POINTS) + 0.5) / _NUM_POINTS, _LIGHT_WITHIN, _SCALE_LENGTHS) / 1.678
_POINT_ANGLES = np.arange(_NUM_POINTS) * 2.39996


@dataclass(frozen=True)
class Frame:
    """The pixels of a cutout: north up, east left, row 0 the northernmost."""

    ra_deg: float
    dec_deg: float
    width: int
    height: int
    pixel_scale_arcsec: float

    @property
    def east(self) -> NDArray[np.float32]:
        """Offset of each column to the east of the centre, arcsec, (width,)."""
        return ((self.width - 1) / 2 - np.arange(self.width, dtype=np.float32)) * np.float32(self.pixel_scale_arcsec)

    @property
    def north(self) -> NDArray[np.float32]:
        """Offset of each row to the north of the centre, arcsec, (height,)."""
        return ((self.height - 1) / 2 - np.arange(self.height, dtype=np.float32)) * np.float32(self.pixel_scale_arcsec)

    @property
    def radius_arcsec(self) -> float:
        """From the centre to a corner."""
        return math.hypot(self.width, self.height) / 2 * self.pixel_scale_arcsec

    def padded(self, margin: int) -> Frame:
        """Widen the frame by at least ``margin`` pixels in all, to a size that a Fourier transform likes."""

        def wider(num: int) -> int:
            return num + 2 * math.ceil((fft.next_fast_len(num + margin, real=True) - num) / 2)

        return Frame(self.ra_deg, self.dec_deg, wider(self.width), wider(self.height), self.pixel_scale_arcsec)

    def axes_from(self, ra_deg: float, dec_deg: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Offsets of columns to the east and rows to the north of a position on the sky, arcsec."""
        east, north = sky_offsets_arcsec(ra_deg, dec_deg, self.ra_deg, self.dec_deg)
        return self.east - np.float32(east), self.north - np.float32(north)

    def pixels(self, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Column and row (fractional) of positions on the sky."""
        east, north = sky_offsets_arcsec(ra_deg, dec_deg, self.ra_deg, self.dec_deg)
        column = (self.width - 1) / 2 - east / self.pixel_scale_arcsec
        return column, (self.height - 1) / 2 - north / self.pixel_scale_arcsec


def cutout(
    ra_deg: float,
    dec_deg: float,
    size: int | tuple[int, int] = 256,
    pixel_scale_arcsec: float = NATIVE_PIXEL_ARCSEC,
    bands: str = BANDS,
    survey: Survey | None = None,
) -> NDArray[np.float32]:
    """Observe a piece of the sky.

    Parameters
    ----------
    ra_deg, dec_deg : float
        Centre.
    size : int or (width, height)
        Pixels.
    pixel_scale_arcsec : float
        Pixel scale.
    bands : str
        Any of g, r, z, in the order of the answer.
    survey : Survey, optional
        Seeing, depth and colours.

    Returns
    -------
    float32 (bands, height, width)
        Nanomaggies per 0.262 arcsec pixel with noise, north up and east left. The same call gives the same
        numbers. All zero where the survey has no coverage.
    """
    survey = survey or Survey()
    width, height = (size, size) if isinstance(size, int) else size
    frame = Frame(ra_deg, dec_deg, width, height, pixel_scale_arcsec)
    if not survey.covers(dec_deg - frame.radius_arcsec / 3600):
        return np.zeros((len(bands), height, width), dtype=np.float32)
    wide = frame.padded(max(12, math.ceil(6 / pixel_scale_arcsec)))
    flux = np.zeros((3, wide.height, wide.width), dtype=np.float32)
    galaxies = galaxies_in(ra_deg, dec_deg, wide.radius_arcsec + _LARGEST_GALAXY_ARCSEC)
    for galaxy in galaxies:
        add_galaxy(flux, galaxy, *wide.axes_from(galaxy.ra_deg, galaxy.dec_deg))
    if pixel_scale_arcsec <= _COARSEST_FIELD_ARCSEC:
        _add_field_sources(flux, wide)
    flux *= np.power(10, -0.4 * np.array(survey.zero_point_offset_mag), dtype=np.float32)[:, None, None]
    noise = _request_generator(ra_deg, dec_deg, width, height, pixel_scale_arcsec, survey.seed)
    flux = _observe(flux, pixel_scale_arcsec, survey, noise)
    row, column = (wide.height - height) // 2, (wide.width - width) // 2
    flux = flux[:, row : row + height, column : column + width]
    for galaxy in galaxies:
        if galaxy.artifact != "none":
            add_artifact(flux, galaxy, *frame.axes_from(galaxy.ra_deg, galaxy.dec_deg))
    for star in bright_stars_in(ra_deg, dec_deg, frame.radius_arcsec + BRIGHT_STAR_REACH_ARCSEC):
        add_bright_star(flux, star, *frame.axes_from(star.ra_deg, star.dec_deg))
    flux[:, dec_deg + frame.north / 3600 > survey.max_dec_deg] = 0
    return np.ascontiguousarray(flux[[BANDS.index(band) for band in bands]])


def image(
    ra_deg: float,
    dec_deg: float,
    size: int | tuple[int, int] = 256,
    pixel_scale_arcsec: float = NATIVE_PIXEL_ARCSEC,
    survey: Survey | None = None,
) -> NDArray[np.uint8]:
    """Draw a piece of the sky in colour, uint8 (height, width, 3); parameters as for `cutout`."""
    return rgb(cutout(ra_deg, dec_deg, size, pixel_scale_arcsec, survey=survey))


def _request_generator(*request: float) -> np.random.Generator:
    return random_generator(3, zlib.crc32(np.array(request, dtype=np.float64).tobytes()))


def _add_field_sources(flux: NDArray[np.float32], frame: Frame) -> None:
    """Stars and faint galaxies, as points shared among the four nearest pixels; the seeing does the rest."""
    sources = field_sources_in(frame.ra_deg, frame.dec_deg, frame.radius_arcsec)
    column, row = frame.pixels(sources.ra_deg, sources.dec_deg)
    near = np.abs(column - frame.width / 2) < frame.width / 2 + 8
    near &= np.abs(row - frame.height / 2) < frame.height / 2 + 8
    pa = np.radians(sources.position_angle_deg[near])[:, None]
    radius = sources.radius_arcsec[near][:, None] / frame.pixel_scale_arcsec * _POINT_RADII
    major, minor = radius * np.cos(_POINT_ANGLES), radius * np.sin(_POINT_ANGLES) * sources.axis_ratio[near][:, None]
    column = column[near][:, None] - (major * np.sin(pa) + minor * np.cos(pa))
    row = row[near][:, None] - (major * np.cos(pa) - minor * np.sin(pa))
    weight = sources.flux[near] * np.float32(_NATIVE_AREA / frame.pixel_scale_arcsec**2 / _NUM_POINTS)
    _deposit(flux, column.ravel(), row.ravel(), np.repeat(weight, _NUM_POINTS, axis=0))


def _deposit(
    flux: NDArray[np.float32], column: NDArray[np.float64], row: NDArray[np.float64], weight: NDArray[np.float32]
) -> None:
    """Add points (N,) of flux (N, 3) to the four pixels around each."""
    _, height, width = flux.shape
    left, top = np.floor(column).astype(np.int64), np.floor(row).astype(np.int64)
    inside = (left >= 0) & (top >= 0) & (left < width - 1) & (top < height - 1)
    left, top, weight = left[inside], top[inside], weight[inside]
    x, y = column[inside] - left, row[inside] - top
    corner = top * width + left
    index = np.concatenate([corner, corner + 1, corner + width, corner + width + 1])
    share = np.concatenate([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y])
    for band in range(len(flux)):
        flat = flux[band].reshape(-1)
        flat += np.bincount(index, share * np.tile(weight[:, band], 4), minlength=flat.size).astype(np.float32)


def _observe(
    flux: NDArray[np.float32], pixel_scale_arcsec: float, survey: Survey, noise: np.random.Generator
) -> NDArray[np.float32]:
    """Seeing and noise at once, in Fourier space.

    The seeing is Kolmogorov's: transfer function exp(-(k / k0)^(5/3)), FWHM 0.976 lambda / r0 (Fried 1966). The noise
    is white at 0.262 arcsec; at finer pixels it is correlated, as in any resampled image.
    """
    _, height, width = flux.shape
    kx = fft.rfftfreq(width).astype(np.float32) / np.float32(pixel_scale_arcsec)
    ky = fft.fftfreq(height).astype(np.float32) / np.float32(pixel_scale_arcsec)
    k_squared = np.square(ky)[:, None] + np.square(kx)[None, :]
    k_power = np.exp(np.float32(5 / 6) * np.log(np.maximum(k_squared, np.float32(1e-12))))
    spectrum = fft.rfft2(flux)
    grain = np.exp(k_squared * np.float32(-2 * (math.pi * 0.35 * NATIVE_PIXEL_ARCSEC) ** 2))
    grain *= np.float32(math.sqrt(height * width / 2) * NATIVE_PIXEL_ARCSEC / pixel_scale_arcsec)
    white = noise.standard_normal((3, height, width // 2 + 1, 2), dtype=np.float32).view(np.complex64)[..., 0]
    for band, (fwhm, sigma) in enumerate(zip(survey.psf_fwhm_arcsec, survey.sky_noise, strict=True)):
        spectrum[band] *= np.exp(k_power * np.float32(-3.44 * (fwhm / 0.976) ** (5 / 3)))
        white[band] *= grain * np.float32(sigma)
        spectrum[band] += white[band]
    return fft.irfft2(spectrum, s=(height, width))
