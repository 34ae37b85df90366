"""What is no galaxy: a saturated star, a satellite's trail, columns without data. Drawn over the finished flux."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from galaxray.synthetic.galaxy import SyntheticGalaxy, random_generator
from galaxray.synthetic.profiles import within
from galaxray.synthetic.sky import BRIGHT_STAR_REACH_ARCSEC, BrightStar

__all__ = ["add_artifact", "add_bright_star"]

Plane = NDArray[np.float32]

_REACH = 12.0
"""Artifacts are drawn out to this many effective radii of the galaxy that they spoil."""


def add_artifact(flux: Plane, galaxy: SyntheticGalaxy, east: Plane, north: Plane) -> None:
    """Draw the artifact of ``galaxy`` over ``flux`` (3, H, W), in place; axes as for `add_galaxy`."""
    draw = {"saturated-star": _saturated_star, "satellite-trail": _satellite_trail, "bad-columns": _bad_columns}
    columns, rows = (within(axis, _REACH * galaxy.effective_radius_arcsec) for axis in (east, north))
    draw[galaxy.artifact](flux[:, rows, columns], galaxy, east[columns], north[rows])


def _saturated_star(flux: Plane, galaxy: SyntheticGalaxy, east: Plane, north: Plane) -> None:
    rng = random_generator(7, galaxy.seed)
    size = galaxy.effective_radius_arcsec
    squared = np.square(east)[None, :] + np.square(north)[:, None]
    halo = 60 * (1 + squared * np.float32(1 / (0.35 * size) ** 2)) ** np.float32(-2.2)
    angle = rng.uniform(0.1, 0.7)
    for turn in (0.0, math.pi / 2):
        sin, cos = np.float32(math.sin(angle + turn)), np.float32(math.cos(angle + turn))
        along, across = (north * cos)[:, None] + (east * sin)[None, :], (east * cos)[None, :] - (north * sin)[:, None]
        halo += 3 * np.exp(-np.abs(along) * np.float32(1.3 / size) - np.square(across) * np.float32(1 / 0.8**2))
    tint = np.array(rng.choice([[1.3, 1.0, 0.7], [0.6, 1.0, 1.9], [0.9, 1.0, 1.3]]), dtype=np.float32)
    flux += halo * tint[:, None, None]
    bleeding = (np.abs(east) < 0.09 * size)[None, :] & (np.abs(north) < rng.uniform(1.0, 4.0) * size)[:, None]
    flux[2][bleeding] = 0.02  # electrons spilt along the column: that band has no data there


def add_bright_star(flux: Plane, star: BrightStar, east: Plane, north: Plane) -> None:
    """Draw the wide wings and the four spikes of a bright star, over ``flux`` (3, H, W), in place."""
    columns, rows = (within(axis, BRIGHT_STAR_REACH_ARCSEC) for axis in (east, north))
    east, north = east[columns], north[rows]
    squared = np.square(east)[None, :] + np.square(north)[:, None]
    light = 30 * (1 + squared * np.float32(1 / (0.9 * star.size_arcsec**0.5) ** 2)) ** np.float32(-2.0)
    for turn in (math.pi / 4, 3 * math.pi / 4):
        sin, cos = np.float32(math.sin(turn)), np.float32(math.cos(turn))
        along, across = (north * cos)[:, None] + (east * sin)[None, :], (east * cos)[None, :] - (north * sin)[:, None]
        fading = np.abs(along) * np.float32(2 / star.size_arcsec) + np.square(across) * np.float32(1 / 0.6**2)
        light += 3 * np.exp(-fading)
    flux[:, rows, columns] += light * np.array(star.colours, dtype=np.float32)[:, None, None]


def _satellite_trail(flux: Plane, galaxy: SyntheticGalaxy, east: Plane, north: Plane) -> None:
    rng = random_generator(7, galaxy.seed)
    size = galaxy.effective_radius_arcsec
    for _ in range(int(rng.integers(1, 4))):
        angle, shift = rng.uniform(0, math.pi), rng.normal(0, 0.5 * size)
        across = (east * np.float32(math.cos(angle)))[None, :] - (north * np.float32(math.sin(angle)))[:, None]
        width = rng.uniform(0.08, 0.2) * size
        band = int(rng.integers(3))
        profile = np.exp(np.square(across - np.float32(shift)) * np.float32(-0.5 / width**2))
        flux[band] += np.float32(rng.uniform(0.5, 2)) * profile


def _bad_columns(flux: Plane, galaxy: SyntheticGalaxy, east: Plane, north: Plane) -> None:
    rng = random_generator(7, galaxy.seed)
    size = galaxy.effective_radius_arcsec
    reach = (np.abs(north) < 6 * size)[:, None] & (np.abs(east) < 6 * size)[None, :]
    for band in range(3):
        edge = rng.uniform(-1.2, 1.2) * size
        flux[band][reach & (east > edge if rng.random() < 0.5 else east < edge)[None, :]] = 0.0
        for _ in range(4):
            column = rng.uniform(-3, 3) * size
            flux[band][reach & (np.abs(east - column) < 0.06 * size)[None, :]] = np.float32(rng.uniform(-0.05, 0.5))
