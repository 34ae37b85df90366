"""One synthetic galaxy: its true parameters, and the geometry that picture, volunteers and masks share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Artifact", "EdgeOnBulge", "Kind", "MergerStage", "SyntheticGalaxy", "random_generator"]

Kind = Literal["smooth", "disk", "edge-on", "artifact"]
EdgeOnBulge = Literal["rounded", "boxy", "none"]
MergerStage = Literal["none", "minor-disturbance", "major-disturbance", "merger"]
Artifact = Literal["none", "saturated-star", "satellite-trail", "bad-columns"]

_SKY_SEED = 20_010_701
_ARM_WOBBLE = 0.35
"""How far, in radians of phase, arms stray from perfect symmetry."""


def random_generator(*keys: int) -> np.random.Generator:
    """Make a random generator that depends only on the keys (non-negative integers)."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence((_SKY_SEED, *keys))))


@dataclass(frozen=True)
class SyntheticGalaxy:
    """The truth about one galaxy of the synthetic sky.

    Angles on the sky are degrees east of north; lengths are arcsec. Angles in the disk's plane count from the
    major axis in the same sense. What a galaxy lacks is zero (``bar_strength``, ``arm_strength``, ``ring_strength``).
    """

    object_id: str
    """IAU-style name, ``J123456.78+012345.6``."""
    ra_deg: float
    dec_deg: float
    kind: Kind
    seed: int
    """Seed of everything about it that is not listed here: knots, texture, volunteers."""
    r_magnitude: float
    """AB magnitude in r of bulge, disk and bar; arms, rings, tails and dust change the total by up to 0.3."""
    effective_radius_arcsec: float
    """Semi-major axis that holds half of the light (smooth), or half of the disk's light."""
    axis_ratio: float
    """Minor to major axis as seen on the sky."""
    position_angle_deg: float
    """Major axis, degrees east of north, 0 to 180."""
    inclination_deg: float = 0.0
    """Of the disk: 0 face-on, 90 edge-on."""
    bulge_to_total: float = 0.0
    bulge_sersic_index: float = 4.0
    """Of the bulge, or of the whole galaxy where ``kind`` is smooth."""
    bulge_radius_arcsec: float = 1.0
    """Effective radius of the bulge."""
    bar_strength: float = 0.0
    """0 no bar, 1 the strongest."""
    bar_semi_length_arcsec: float = 0.0
    """Half length in the disk's plane."""
    bar_axis_ratio: float = 0.3
    bar_plane_angle_deg: float = 0.0
    """Direction of the bar in the disk's plane, from the major axis."""
    arm_count: int = 0
    """Number of spiral arms; 0 with ``arm_strength`` > 0 is a flocculent spiral, whose arms nobody can count."""
    arm_strength: float = 0.0
    """0 no arms, 1 the strongest."""
    arm_sharpness: float = 1.8
    """Concentration of the arms in phase: profile exp(sharpness (cos(phase) - 1))."""
    pitch_angle_deg: float = 20.0
    chirality: Literal["S", "Z"] = "Z"
    """``Z``: going outwards the arms turn from north to east (anticlockwise as seen); ``S``: the mirror image."""
    arm_phase_deg: float = 0.0
    """Direction of the first arm at the effective radius, in the disk's plane."""
    ring_strength: float = 0.0
    ring_radius_arcsec: float = 0.0
    edge_on_bulge: EdgeOnBulge = "none"
    dust: float = 0.0
    """0 no dust lane, 1 the strongest."""
    merger_stage: MergerStage = "none"
    disturbance: float = 0.0
    """0 undisturbed, 1 tails and asymmetry at their strongest."""
    companions: tuple[SyntheticGalaxy, ...] = ()
    artifact: Artifact = "none"
    bulge_g_r: float = 0.8
    """Colour of the old stars (bulge, bar), magnitudes."""
    disk_g_r: float = 0.6
    arm_g_r: float = 0.3

    @property
    def size_arcsec(self) -> float:
        """Width of the cutout that shows this galaxy as Galaxy Zoo would: 5.6 effective radii."""
        return 5.6 * self.effective_radius_arcsec

    @property
    def pixel_scale_arcsec(self) -> float:
        """Pixel scale of that cutout at 256 pixels."""
        return self.size_arcsec / 256

    @property
    def total_flux(self) -> float:
        """Flux in r, nanomaggies."""
        return float(10 ** (0.4 * (22.5 - self.r_magnitude)))

    @property
    def bar_ends_arcsec(self) -> tuple[float, float]:
        """Where one end of the bar lies on the sky: offsets to the east and to the north."""
        angle = math.radians(self.bar_plane_angle_deg)
        major = self.bar_semi_length_arcsec * math.cos(angle)
        minor = self.bar_semi_length_arcsec * math.sin(angle) * self.axis_ratio
        pa = math.radians(self.position_angle_deg)
        return major * math.sin(pa) + minor * math.cos(pa), major * math.cos(pa) - minor * math.sin(pa)

    @property
    def bar_length_arcsec(self) -> float:
        """Length of the bar on the sky, end to end."""
        return 2 * math.hypot(*self.bar_ends_arcsec)

    @property
    def bar_angle_deg(self) -> float:
        """Direction of the bar on the sky, degrees east of north, 0 to 180."""
        east, north = self.bar_ends_arcsec
        return math.degrees(math.atan2(east, north)) % 180

    @property
    def arm_inner_arcsec(self) -> float:
        """Where the arms begin, in the disk's plane."""
        return max(0.95 * self.bar_semi_length_arcsec, 0.3 * self.effective_radius_arcsec)

    @property
    def arm_outer_arcsec(self) -> float:
        """Where the arms end, in the disk's plane."""
        return 2.1 * self.effective_radius_arcsec

    def along_axes(self, east: NDArray[np.float32], north: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """Offsets on the sky (east (W,), north (H,)) -> offsets (H, W) along the major and the minor axis."""
        pa = math.radians(self.position_angle_deg)
        sin, cos = np.float32(math.sin(pa)), np.float32(math.cos(pa))
        return (north * cos)[:, None] + (east * sin)[None, :], (east * cos)[None, :] - (north * sin)[:, None]

    def disk_plane(self, east: NDArray[np.float32], north: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """Offsets on the sky -> offsets (H, W) in the plane of the disk, bent to one side where it is disturbed."""
        major, minor = self.along_axes(east, north)
        minor *= np.float32(1 / self.axis_ratio)
        if self.disturbance:
            major += np.float32(0.12 * self.disturbance / self.effective_radius_arcsec) * np.square(minor)
        return major, minor

    def arm_phase(self, log_radius: NDArray[np.float32], azimuth: NDArray[np.float32]) -> NDArray[np.float32]:
        """Phase of the spiral pattern; the ridge of an arm is where it is a multiple of 2 pi.

        Parameters
        ----------
        log_radius : float32 (...)
            Natural logarithm of the radius in the disk's plane over the effective radius.
        azimuth : float32 (...)
            Angle in the disk's plane from the major axis, radians.

        Notes
        -----
        Arms are logarithmic spirals: constant pitch angle (e.g. Seigar & James 1998).
        """
        count = max(self.arm_count, 1)
        turn = count / math.tan(math.radians(self.pitch_angle_deg)) * (1 if self.chirality == "Z" else -1)
        start = count * math.radians(self.arm_phase_deg)
        wobble = np.float32(_ARM_WOBBLE) * np.sin(azimuth + np.float32(self.seed % 6283 / 1000))
        phase: NDArray[np.float32] = (
            np.float32(count) * azimuth - np.float32(turn) * log_radius - np.float32(start) + wobble
        )
        return phase

    def bar_radius_squared(self, major: NDArray[np.float32], minor: NDArray[np.float32]) -> NDArray[np.float32]:
        """Squared boxy-elliptical radius of the bar in the disk's plane: 1 on its edge (Athanassoula et al. 1990)."""
        angle = math.radians(self.bar_plane_angle_deg)
        sin, cos = np.float32(math.sin(angle)), np.float32(math.cos(angle))
        length = np.float32(max(self.bar_semi_length_arcsec, 1e-3))
        along = (major * cos + minor * sin) / length
        across = (minor * cos - major * sin) / (length * np.float32(self.bar_axis_ratio))
        squared: NDArray[np.float32] = np.sqrt(np.square(np.square(along)) + np.square(np.square(across)))
        return squared
