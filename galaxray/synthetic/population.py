"""Which galaxies there are: random draws of true parameters, mixed so that every Galaxy Zoo answer occurs often."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from galaxray.synthetic.galaxy import Kind, SyntheticGalaxy, random_generator
from galaxray.synthetic.survey import NATIVE_PIXEL_ARCSEC

__all__ = ["draw_galaxy", "iau_name"]

_KINDS: tuple[Kind, ...] = ("smooth", "disk", "edge-on", "artifact")
_KIND_SHARES = np.cumsum([0.31, 0.47, 0.155, 0.065])
_ARM_COUNTS = np.array([1, 2, 3, 4, 5, 6, 0])
_ARM_COUNT_SHARES = np.cumsum([0.09, 0.42, 0.14, 0.11, 0.06, 0.06, 0.12])


def iau_name(ra_deg: float, dec_deg: float) -> str:
    """Make the name by truncated coordinates: ``J123456.78+012345.6``."""
    hundredths = int(ra_deg * 24000) % 8_640_000
    tenths = int(abs(dec_deg) * 36000)
    hours, minutes, seconds = hundredths // 360_000, hundredths // 6000 % 60, hundredths % 6000 / 100
    degrees, arcmin, arcsec = tenths // 36_000, tenths // 600 % 60, tenths % 600 / 10
    sign = "-" if dec_deg < 0 else "+"
    return f"J{hours:02d}{minutes:02d}{seconds:05.2f}{sign}{degrees:02d}{arcmin:02d}{arcsec:04.1f}"


def draw_galaxy(ra_deg: float, dec_deg: float, seed: int) -> SyntheticGalaxy:
    """Draw the galaxy at this place: a function of the seed alone, but for its position and name."""
    rng = random_generator(1, seed)
    kind = _KINDS[min(int(np.searchsorted(_KIND_SHARES, rng.random())), 3)]
    galaxy = SyntheticGalaxy(
        object_id=iau_name(ra_deg, dec_deg),
        ra_deg=ra_deg,
        dec_deg=dec_deg,
        seed=seed,
        **_shape(kind, rng),
    )
    return _disturb(galaxy, rng) if kind in ("smooth", "disk") else galaxy


def _shape(kind: Kind, rng: np.random.Generator) -> dict[str, Any]:
    radius = float(np.clip(5.5 * math.exp(0.35 * rng.normal()), 2.5, 14.0))
    if kind == "smooth":
        shape = _smooth(radius, rng)
    elif kind == "disk":
        shape = _disk(radius, rng)
    elif kind == "edge-on":
        shape = _edge_on(1.25 * radius, rng)
    else:
        artifacts = ("saturated-star", "satellite-trail", "bad-columns")
        shape = _smooth(radius, rng) | {"kind": kind, "artifact": artifacts[rng.integers(3)]}
    # Mean surface brightness inside the effective radius against the sky noise decides what can be seen: draw that.
    contrast = float(np.clip(0.085 * math.exp(0.8 * rng.normal()), 0.006, 0.6))
    area = math.pi * shape["effective_radius_arcsec"] ** 2 * max(shape["axis_ratio"], 0.25) / NATIVE_PIXEL_ARCSEC**2
    return shape | {
        "r_magnitude": 22.5 - 2.5 * math.log10(2 * contrast * area),
        "position_angle_deg": 180.0 * rng.random(),
    }


def _smooth(radius: float, rng: np.random.Generator) -> dict[str, Any]:
    axis_ratio = rng.uniform(0.26, 0.42) if rng.random() < 0.22 else rng.uniform(0.45, 1.0)
    return {
        "kind": "smooth",
        "effective_radius_arcsec": radius,
        "axis_ratio": float(axis_ratio),
        "bulge_to_total": 1.0,
        "bulge_sersic_index": float(rng.uniform(1.0, 2.2) if axis_ratio < 0.45 else rng.uniform(1.2, 4.5)),
        "bulge_radius_arcsec": radius,
        "bulge_g_r": float(np.clip(rng.normal(0.74, 0.09), 0.35, 0.95)),
    }


def _disk(radius: float, rng: np.random.Generator) -> dict[str, Any]:
    cos_inclination = rng.uniform(0.32, 1.0)
    bulge = float(np.clip(rng.choice([0.0, 0.06, 0.16, 0.33, 0.6]) * math.exp(0.25 * rng.normal()), 0.0, 0.75))
    shape: dict[str, Any] = {
        "kind": "disk",
        "effective_radius_arcsec": radius,
        "inclination_deg": math.degrees(math.acos(cos_inclination)),
        "axis_ratio": math.sqrt(cos_inclination**2 + 0.02 * (1 - cos_inclination**2)),
        "bulge_to_total": bulge,
        "bulge_sersic_index": float(rng.uniform(1.2, 3.0)),
        "bulge_radius_arcsec": radius * float(rng.uniform(0.16, 0.22) * (1 + 1.1 * bulge)),
        "bulge_g_r": float(np.clip(rng.normal(0.82, 0.06), 0.6, 1.0)),
        "disk_g_r": float(np.clip(rng.normal(0.60, 0.07), 0.4, 0.8)),
        "arm_g_r": float(np.clip(rng.normal(0.27, 0.10), 0.0, 0.5)),
    }
    if rng.random() < 0.52:
        strength = float(rng.uniform(0.15, 1.0))
        shape |= {
            "bar_strength": strength,
            "bar_semi_length_arcsec": radius * float(rng.uniform(0.65, 0.85) * (0.55 + 0.6 * strength)),
            "bar_axis_ratio": float(rng.uniform(0.24, 0.36)),
            "bulge_to_total": min(bulge, 0.42),
            "bulge_radius_arcsec": 0.7 * shape["bulge_radius_arcsec"],
            "bar_plane_angle_deg": float(rng.uniform(0, 180)),
        }
    if rng.random() < 0.76:
        shape |= _arms(shape, rng)
    if rng.random() < 0.16:
        ring = max(1.02 * shape.get("bar_semi_length_arcsec", 0.0), radius * float(rng.uniform(0.6, 1.1)))
        shape |= {"ring_strength": float(rng.uniform(0.3, 1.0)), "ring_radius_arcsec": ring}
    return shape


def _arms(shape: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    count = int(_ARM_COUNTS[min(int(np.searchsorted(_ARM_COUNT_SHARES, rng.random())), 6)])
    # Many arms wound tightly merge into a smooth disk: their pitch is larger, as their spacing would vanish.
    tightest = max(7.0 if count else 14.0, 4.2 * count)
    barred = shape.get("bar_strength", 0.0) > 0 and count == 2
    turn = math.log(max(shape.get("bar_semi_length_arcsec", 0.0), 1e-3) / shape["effective_radius_arcsec"])
    pitch = tightest + (36.0 - tightest) * float(rng.random()) ** 1.4
    chirality = "Z" if rng.random() < 0.5 else "S"
    sense = 1 if chirality == "Z" else -1
    phase = float(rng.uniform(0, 360))
    if barred:  # two arms leave the ends of the bar
        phase = shape["bar_plane_angle_deg"] - sense * math.degrees(turn / math.tan(math.radians(pitch)))
    return {
        "arm_count": count,
        "arm_strength": float(rng.uniform(0.4, 1.0)),
        "arm_sharpness": float(rng.uniform(1.4, 3.0)),
        "pitch_angle_deg": pitch,
        "chirality": chirality,
        "arm_phase_deg": phase % 360,
        "dust": float(rng.uniform(0.0, 1.0)),
    }


def _edge_on(radius: float, rng: np.random.Generator) -> dict[str, Any]:
    bulge = ("rounded", "boxy", "none")[min(int(rng.random() / 0.36), 2)]
    return {
        "kind": "edge-on",
        "effective_radius_arcsec": radius,
        "inclination_deg": float(rng.uniform(81.0, 90.0)),
        "axis_ratio": float(rng.uniform(0.12, 0.21)),
        "edge_on_bulge": bulge,
        "bulge_to_total": 0.0 if bulge == "none" else float(rng.uniform(0.15, 0.42)),
        "bulge_sersic_index": 1.5,
        "bulge_radius_arcsec": radius * float(rng.uniform(0.17, 0.26)),
        "dust": float(rng.uniform(0.0, 1.0)),
        "bulge_g_r": float(np.clip(rng.normal(0.85, 0.06), 0.6, 1.0)),
        "disk_g_r": float(np.clip(rng.normal(0.58, 0.12), 0.3, 0.85)),
    }


def _disturb(galaxy: SyntheticGalaxy, rng: np.random.Generator) -> SyntheticGalaxy:
    draw = rng.random()
    if draw < 0.09:
        disturbed = replace(galaxy, merger_stage="minor-disturbance", disturbance=float(rng.uniform(0.2, 0.45)))
        return replace(disturbed, companions=(_companion(disturbed, rng, (0.04, 0.12), (1.7, 2.5)),))
    if draw < 0.17:
        return replace(galaxy, merger_stage="major-disturbance", disturbance=float(rng.uniform(0.6, 1.0)))
    if draw < 0.26:
        merging = replace(galaxy, merger_stage="merger", disturbance=float(rng.uniform(0.3, 0.9)))
        return replace(merging, companions=(_companion(merging, rng, (0.3, 0.9), (0.8, 1.6)),))
    return galaxy


def _companion(
    galaxy: SyntheticGalaxy, rng: np.random.Generator, flux_ratio: tuple[float, float], distance: tuple[float, float]
) -> SyntheticGalaxy:
    """Draw a smaller galaxy beside this one; distance in effective radii."""
    ratio = float(rng.uniform(*flux_ratio))
    angle = 2 * math.pi * rng.random()
    away_deg = galaxy.effective_radius_arcsec * float(rng.uniform(*distance)) / 3600
    dec = float(np.clip(galaxy.dec_deg + away_deg * math.cos(angle), -89.9999, 89.9999))
    ra = (galaxy.ra_deg + away_deg * math.sin(angle) / math.cos(math.radians(dec))) % 360
    shape = _smooth(galaxy.effective_radius_arcsec * 0.75 * ratio**0.35, rng)
    return SyntheticGalaxy(
        object_id=iau_name(ra, dec),
        ra_deg=ra,
        dec_deg=dec,
        seed=int(rng.integers(2**62)),
        r_magnitude=galaxy.r_magnitude - 2.5 * math.log10(ratio),
        position_angle_deg=180.0 * rng.random(),
        **(shape | {"bulge_sersic_index": float(rng.uniform(1.0, 2.5))}),
    )
