"""The synthetic sky: what lies at any (ra, dec). Cells of the sphere, each with its own random generator."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from galaxray.synthetic.galaxy import SyntheticGalaxy, random_generator
from galaxray.synthetic.population import draw_galaxy
from galaxray.synthetic.survey import Survey

__all__ = ["FieldSources", "catalog", "field_sources_in", "galaxies_in", "galaxy_at", "sky_offsets_arcsec"]

NUM_SEEDS = 64
"""Catalogues with different seeds below this share no galaxy."""


class _Grid:
    """Bands of declination cut into cells of about equal area; total at the poles and across RA 0."""

    def __init__(self, cell_deg: float) -> None:
        self.num_bands = round(180 / cell_deg)
        self.cell_deg = 180 / self.num_bands
        middles = np.radians(-90 + (np.arange(self.num_bands) + 0.5) * self.cell_deg)
        self.num_columns = np.maximum(1, np.round(360 * np.cos(middles) / self.cell_deg)).astype(np.int64)
        self.first = np.concatenate([[0], np.cumsum(self.num_columns)])
        self.num_cells = int(self.first[-1])

    def cells_within(self, ra_deg: float, dec_deg: float, radius_deg: float) -> list[tuple[int, int]]:
        """Every (band, column) that a circle may touch."""
        lowest = max(0, math.floor((dec_deg - radius_deg + 90) / self.cell_deg))
        highest = min(self.num_bands - 1, math.floor((dec_deg + radius_deg + 90) / self.cell_deg))
        ratio = math.sin(math.radians(min(radius_deg, 90))) / max(math.cos(math.radians(dec_deg)), 1e-12)
        half_width = math.degrees(math.asin(ratio)) if ratio < 1 else 180.0
        cells = []
        for band in range(lowest, highest + 1):
            columns = int(self.num_columns[band])
            start = math.floor((ra_deg - half_width) / 360 * columns)
            stop = math.floor((ra_deg + half_width) / 360 * columns)
            cells += [(band, column % columns) for column in range(start, min(stop, start + columns - 1) + 1)]
        return cells

    def place(self, band: int, column: int, x: float, y: float) -> tuple[float, float]:
        """Give the (ra, dec) at fractions x, y of a cell."""
        return float((column + x) / int(self.num_columns[band]) * 360 % 360), float(-90 + (band + y) * self.cell_deg)


_GALAXIES = _Grid(0.05)
_FIELD = _Grid(1 / 60)
_BRIGHT = _Grid(0.1)
BRIGHT_STAR_REACH_ARCSEC = 60.0
"""Nothing of a bright star shows farther away."""

# A fixed bijection of the cells, so that the first galaxies of a catalogue lie all over the sky.
_STEP = round(0.618 * _GALAXIES.num_cells)
while math.gcd(_STEP, _GALAXIES.num_cells) != 1:
    _STEP += 1
_STEP_INVERSE = pow(_STEP, -1, _GALAXIES.num_cells)


@lru_cache(maxsize=4096)
def _galaxy_in_cell(band: int, column: int) -> SyntheticGalaxy:
    rng = random_generator(0, band, column)
    ra_deg, dec_deg = _GALAXIES.place(band, column, *rng.uniform(0.2, 0.8, size=2))
    return draw_galaxy(ra_deg, dec_deg, seed=int(rng.integers(2**62)))


def sky_offsets_arcsec(
    ra_deg: NDArray[np.float64] | float, dec_deg: NDArray[np.float64] | float, ra0_deg: float, dec0_deg: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gnomonic (TAN) offsets to the east and north of a centre, arcsec; NaN for the far hemisphere."""
    dra = np.radians(np.asarray(ra_deg) - ra0_deg)
    dec, dec0 = np.radians(np.asarray(dec_deg)), math.radians(dec0_deg)
    cos_distance = math.sin(dec0) * np.sin(dec) + math.cos(dec0) * np.cos(dec) * np.cos(dra)
    scale = math.degrees(1) * 3600 / np.where(cos_distance > 0, cos_distance, np.nan)
    east = np.cos(dec) * np.sin(dra) * scale
    return east, (math.cos(dec0) * np.sin(dec) - math.sin(dec0) * np.cos(dec) * np.cos(dra)) * scale


def galaxies_in(ra_deg: float, dec_deg: float, radius_arcsec: float) -> list[SyntheticGalaxy]:
    """Catalogue galaxies whose centres lie within a circle, nearest first."""
    found = [_galaxy_in_cell(*cell) for cell in _GALAXIES.cells_within(ra_deg, dec_deg, radius_arcsec / 3600)]
    distances = [math.hypot(*sky_offsets_arcsec(g.ra_deg, g.dec_deg, ra_deg, dec_deg)) for g in found]
    order = sorted(range(len(found)), key=distances.__getitem__)
    return [found[i] for i in order if distances[i] <= radius_arcsec]


def galaxy_at(ra_deg: float, dec_deg: float, tolerance_arcsec: float = 2.0) -> SyntheticGalaxy | None:
    """Find the catalogue galaxy at this position, if there is one."""
    return next(iter(galaxies_in(ra_deg, dec_deg, tolerance_arcsec)), None)


def catalog(
    num: int, seed: int = 0, region: tuple[float, float, float, float] | None = None, survey: Survey | None = None
) -> list[SyntheticGalaxy]:
    """Galaxies of this sky, spread evenly over it.

    Parameters
    ----------
    num : int
        How many.
    seed : int
        Which; two catalogues with different seeds (0 to 63) share no galaxy, and one with a larger ``num`` begins
        with the galaxies of a smaller one.
    region : (ra_min, ra_max, dec_min, dec_max), optional
        Only from this box, in degrees; ``ra_min > ra_max`` crosses RA 0.
    survey : Survey, optional
        Leaves out what this survey does not cover.

    Raises
    ------
    ValueError
        If the seed is out of range, or there are fewer galaxies than asked for.
    """
    if not 0 <= seed < NUM_SEEDS:
        raise ValueError(f"seed is {seed}, but there are {NUM_SEEDS} disjoint catalogues: 0 to {NUM_SEEDS - 1}")
    ra_min, ra_max, dec_min, dec_max = region or (0.0, 360.0, -90.0, 90.0)
    dec_max = min(dec_max, (survey or Survey()).max_dec_deg)
    width = ra_max - ra_min if 0 < ra_max - ra_min <= 360 else (ra_max - ra_min) % 360
    galaxies: list[SyntheticGalaxy] = []
    for cell in _cells_of(seed, region):
        band = int(np.searchsorted(_GALAXIES.first, cell, side="right")) - 1
        if not dec_min - _GALAXIES.cell_deg < _GALAXIES.place(band, 0, 0, 0.5)[1] < dec_max + _GALAXIES.cell_deg:
            continue
        galaxy = _galaxy_in_cell(band, int(cell - _GALAXIES.first[band]))
        if dec_min <= galaxy.dec_deg <= dec_max and (galaxy.ra_deg - ra_min) % 360 <= width:
            galaxies.append(galaxy)
            if len(galaxies) == num:
                return galaxies
    raise ValueError(f"only {len(galaxies)} galaxies of seed {seed} in region {region}, {num} asked for")


def _cells_of(seed: int, region: tuple[float, float, float, float] | None) -> Iterable[int]:
    """Cells of one seed, in or near the region, in catalogue order."""
    num_cells = _GALAXIES.num_cells
    if region is None:
        return (place * _STEP % num_cells for place in range(seed, num_cells, NUM_SEEDS))
    found = []
    ra_min, ra_max, dec_min, dec_max = region
    for band, num_columns in enumerate(_GALAXIES.num_columns):
        if dec_min - _GALAXIES.cell_deg < _GALAXIES.place(band, 0, 0, 0.5)[1] < dec_max + _GALAXIES.cell_deg:
            start = math.floor(ra_min / 360 * num_columns)
            stop = math.floor((ra_max if ra_max > ra_min else ra_max + 360) / 360 * num_columns)
            columns = np.arange(start, min(stop, start + num_columns - 1) + 1) % num_columns
            found.append(_GALAXIES.first[band] + columns)
    # Products stay below 2^63: there are fewer than 2^25 cells.
    places = np.concatenate(found or [np.empty(0, dtype=np.int64)]) * _STEP_INVERSE % num_cells
    ordered: list[int] = (np.sort(places[places % NUM_SEEDS == seed]) * _STEP % num_cells).tolist()
    return ordered


@dataclass(frozen=True)
class FieldSources:
    """Stars and faint galaxies, as arrays of equal length. ``radius_arcsec`` is 0 for a star."""

    ra_deg: NDArray[np.float64]
    dec_deg: NDArray[np.float64]
    flux: NDArray[np.float32]
    """(N, 3) nanomaggies in g, r, z."""
    radius_arcsec: NDArray[np.float32]
    axis_ratio: NDArray[np.float32]
    position_angle_deg: NDArray[np.float32]


@lru_cache(maxsize=4096)
def _field_in_cell(band: int, column: int) -> FieldSources:
    rng = random_generator(2, band, column)
    num_stars, num_galaxies = rng.poisson((2.2, 14.0))
    num = num_stars + num_galaxies
    x, y = rng.random((2, num))
    ra_deg, dec_deg = (column + x) / int(_FIELD.num_columns[band]) * 360, -90 + (band + y) * _FIELD.cell_deg
    star = np.arange(num) < num_stars
    # Differential counts: stars are nearly flat in magnitude, faint galaxies rise as 10^(0.35 m).
    uniform = rng.random(num)
    magnitude = np.where(star, 15.5 + 7.5 * np.sqrt(uniform), 24.2 + np.log10(uniform + 1e-3) / 0.35)
    magnitude = np.maximum(magnitude, np.where(star, 15.5, 19.0))
    g_r = np.where(star, rng.uniform(0.15, 1.5, num), np.clip(rng.normal(0.8, 0.4, num), 0.0, 1.8))
    r_z = np.where(
        star, 0.1 + 0.55 * g_r + np.where(g_r > 1.3, 4 * (g_r - 1.3), 0), np.clip(rng.normal(0.75, 0.35, num), 0.0, 1.6)
    )
    colours = np.stack([-g_r, np.zeros(num), r_z], axis=1)
    flux = 10 ** (0.4 * (22.5 - magnitude))[:, None] * 10 ** (0.4 * colours)
    radius = 0.45 * np.exp(0.35 * rng.normal(size=num)) * 10 ** (0.06 * (23 - magnitude))
    return FieldSources(
        ra_deg,
        dec_deg,
        flux.astype(np.float32),
        np.where(star, 0.0, np.clip(radius, 0.2, 1.0)).astype(np.float32),
        rng.uniform(0.3, 1.0, num).astype(np.float32),
        rng.uniform(0, 180, num).astype(np.float32),
    )


def field_sources_in(ra_deg: float, dec_deg: float, radius_arcsec: float) -> FieldSources:
    """Stars and faint galaxies of every cell that a circle touches."""
    cells = [_field_in_cell(*cell) for cell in _FIELD.cells_within(ra_deg, dec_deg, radius_arcsec / 3600)]
    return FieldSources(
        *(np.concatenate(columns) for columns in zip(*(vars(cell).values() for cell in cells), strict=True))
    )


@dataclass(frozen=True)
class BrightStar:
    """A star so bright that its spikes show."""

    ra_deg: float
    dec_deg: float
    size_arcsec: float
    """How far its spikes reach, by and large."""
    colours: tuple[float, float, float]
    """g, r, z."""


@lru_cache(maxsize=4096)
def _bright_stars_in_cell(band: int, column: int) -> tuple[BrightStar, ...]:
    rng = random_generator(11, band, column)
    stars = []
    for _ in range(rng.poisson(0.5)):
        g_r = rng.uniform(0.2, 1.2)
        tint = (float(10 ** (-0.4 * g_r)), 1.0, float(10 ** (0.2 * g_r)))
        stars.append(BrightStar(*_BRIGHT.place(band, column, *rng.random(2)), float(rng.uniform(2.5, 9.0)), tint))
    return tuple(stars)


def bright_stars_in(ra_deg: float, dec_deg: float, radius_arcsec: float) -> list[BrightStar]:
    """Bright stars of every cell that a circle touches."""
    cells = _BRIGHT.cells_within(ra_deg, dec_deg, radius_arcsec / 3600)
    return [star for cell in cells for star in _bright_stars_in_cell(*cell)]
