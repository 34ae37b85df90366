"""Where arms and bar are: the truth, and what volunteers draw, as in Galaxy Zoo: 3D (Masters et al. 2021)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from galaxray.synthetic.galaxy import SyntheticGalaxy, random_generator
from galaxray.synthetic.render import Frame
from galaxray.synthetic.survey import Survey
from galaxray.synthetic.volunteers import LABELS, vote_probabilities

__all__ = ["true_masks", "volunteer_masks"]

_SPIRAL = LABELS.index("has-spiral-arms-dr5_yes")
_BAR = LABELS.index("bar-dr5_no")


def true_masks(
    galaxy: SyntheticGalaxy, size: int = 256, pixel_scale_arcsec: float | None = None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tell where the arms are brighter than half of their ridge, and where the bar is.

    Parameters
    ----------
    galaxy : SyntheticGalaxy
        In the centre of the frame.
    size : int
        Pixels.
    pixel_scale_arcsec : float, optional
        ``galaxy.size_arcsec / size`` where left out.

    Returns
    -------
    spiral, bar : bool (size, size)
        In the frame of `galaxray.synthetic.image`: row 0 is north, column 0 is east. Empty without arms or bar, and
        for the flocculent, whose arms have no ridge.
    """
    phase, radius, bar = _fields(galaxy, size, pixel_scale_arcsec)
    spiral = np.zeros((size, size), dtype=bool)
    if phase is not None:
        spiral = (np.abs(phase) < _half_width(galaxy)) & (radius > galaxy.arm_inner_arcsec) & (radius < _outer(galaxy))
    return spiral, bar < 1 if bar is not None else np.zeros((size, size), dtype=bool)


def volunteer_masks(
    galaxy: SyntheticGalaxy,
    size: int = 256,
    pixel_scale_arcsec: float | None = None,
    num_volunteers: int = 15,
    survey: Survey | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Give the fraction of volunteers who enclose each pixel.

    Each volunteer who sees arms (a bar) draws around them with a steady hand of their own: wider or narrower, longer
    or shorter, shifted. Who sees none draws nothing. Parameters and frame as for `true_masks`.

    Returns
    -------
    spiral, bar : float32 (size, size)
        0 to 1, multiples of ``1 / num_volunteers``.
    """
    rng = random_generator(10, galaxy.seed, num_volunteers)
    chances = vote_probabilities(galaxy, survey)
    draws_arms = rng.random(num_volunteers) < chances[_SPIRAL]
    draws_bar = rng.random(num_volunteers) < 1 - chances[_BAR]
    hands = rng.normal(size=(num_volunteers, 6))
    phase, radius, bar = _fields(galaxy, size, pixel_scale_arcsec)
    spiral_count = np.zeros((size, size), dtype=np.uint8)
    bar_count = np.zeros((size, size), dtype=np.uint8)
    if phase is not None:
        half_width, inner, outer = _half_width(galaxy), galaxy.arm_inner_arcsec, _outer(galaxy)
        for width, begin, end, shift, *_ in hands[draws_arms]:
            drawn = np.abs(phase + np.float32(0.12 * shift)) < np.float32(half_width * math.exp(0.15 * width))
            drawn &= radius > np.float32(inner * math.exp(0.15 * begin))
            drawn &= radius < np.float32(outer * math.exp(0.10 * end))
            spiral_count += drawn
    if bar is not None:
        for *_, width, length in hands[draws_bar]:
            bar_count += bar < np.float32(math.exp(0.2 * length + 0.1 * width))
    scale = np.float32(1 / num_volunteers)
    return spiral_count * scale, bar_count * scale


def _half_width(galaxy: SyntheticGalaxy) -> float:
    """Phase from the ridge of an arm to half of its light."""
    return math.acos(max(-0.3, 1 - math.log(2) / galaxy.arm_sharpness))


def _outer(galaxy: SyntheticGalaxy) -> float:
    return 0.95 * galaxy.arm_outer_arcsec


def _fields(
    galaxy: SyntheticGalaxy, size: int, pixel_scale_arcsec: float | None
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32], NDArray[np.float32] | None]:
    """Phase from the nearest arm's ridge (-pi to pi), radius in the disk's plane, squared radius of the bar."""
    frame = Frame(galaxy.ra_deg, galaxy.dec_deg, size, size, pixel_scale_arcsec or galaxy.size_arcsec / size)
    major, minor = galaxy.disk_plane(frame.east, frame.north)
    radius = np.hypot(major, minor)
    phase = bar = None
    if galaxy.arm_strength and galaxy.arm_count:
        log_radius = np.log(np.maximum(radius, np.float32(1e-3)) / np.float32(galaxy.effective_radius_arcsec))
        phase = galaxy.arm_phase(log_radius, np.arctan2(minor, major))
        phase -= np.float32(2 * math.pi) * np.round(phase * np.float32(0.5 / math.pi))
    if galaxy.bar_strength:
        bar = galaxy.bar_radius_squared(major, minor)
    return phase, radius, bar
