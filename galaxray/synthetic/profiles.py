"""Light profiles of one galaxy: bulge, disk, bar, arms, ring, edge-on disk, tails; added to g, r, z planes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special

from galaxray.synthetic.galaxy import SyntheticGalaxy, random_generator
from galaxray.synthetic.sky import sky_offsets_arcsec
from galaxray.synthetic.survey import NATIVE_PIXEL_ARCSEC

__all__ = ["add_galaxy", "within"]

Plane = NDArray[np.float32]

_NATIVE_AREA = NATIVE_PIXEL_ARCSEC**2
_REACH = {"smooth": 7.0, "disk": 4.5, "edge-on": 4.5, "artifact": 7.0}
"""Profiles are drawn out to this many effective radii."""


def colours(g_r: float) -> NDArray[np.float32]:
    """Flux in g, r, z of a stellar population, r = 1: z follows g - r as in nearby galaxies."""
    return np.array([10 ** (-0.4 * g_r), 1.0, 10 ** (0.4 * (0.05 + 0.75 * g_r))], dtype=np.float32)


def add_galaxy(flux: Plane, galaxy: SyntheticGalaxy, east: Plane, north: Plane) -> None:
    """Add a galaxy and its companions, before seeing and noise.

    Parameters
    ----------
    flux : float32 (3, H, W)
        Changed in place; nanomaggies per native pixel in g, r, z.
    galaxy : SyntheticGalaxy
        What to draw.
    east, north : float32 (W,), (H,)
        Offsets of columns and rows from the galaxy's centre, arcsec.
    """
    if galaxy.artifact == "saturated-star":
        return
    reach = _REACH[galaxy.kind] * galaxy.effective_radius_arcsec
    columns, rows = within(east, reach), within(north, reach)
    if columns.stop > columns.start and rows.stop > rows.start:
        draw = {"smooth": _smooth, "artifact": _smooth, "disk": _disk, "edge-on": _edge_on}[galaxy.kind]
        stamp = draw(galaxy, east[columns], north[rows])
        flux[:, rows, columns] += stamp
    for companion in galaxy.companions:
        de, dn = sky_offsets_arcsec(companion.ra_deg, companion.dec_deg, galaxy.ra_deg, galaxy.dec_deg)
        add_galaxy(flux, companion, east - np.float32(de), north - np.float32(dn))


def within(axis: Plane, reach: float) -> slice:
    """Find the stretch of a monotonic axis within a distance of zero."""
    inside = np.flatnonzero(np.abs(axis) < reach)
    return slice(int(inside[0]), int(inside[-1]) + 1) if inside.size else slice(0, 0)


def _combine(layers: list[tuple[Plane, NDArray[np.float32]]]) -> Plane:
    """Sum of planes (H, W) times colours (3,) -> (3, H, W)."""
    planes = np.stack([plane.reshape(-1) for plane, _ in layers])
    shades = np.stack([shade for _, shade in layers], axis=1)
    return (shades @ planes).reshape(3, *layers[0][0].shape)


def _smooth(galaxy: SyntheticGalaxy, east: Plane, north: Plane) -> Plane:
    flux = np.float32(galaxy.total_flux)
    light = sersic(galaxy, east, north, galaxy.effective_radius_arcsec, galaxy.bulge_sersic_index, galaxy.axis_ratio)
    layers = [(light * flux, colours(galaxy.bulge_g_r))]
    if galaxy.disturbance:
        major, minor = galaxy.along_axes(east, north)
        layers.append((_tails(galaxy, major, minor) * flux, colours(galaxy.bulge_g_r - 0.15)))
    return _combine(layers)


def _disk(galaxy: SyntheticGalaxy, east: Plane, north: Plane) -> Plane:
    scale_length = galaxy.effective_radius_arcsec / 1.678
    major, minor = galaxy.disk_plane(east, north)
    log_radius = np.float32(0.5) * np.log(np.square(major) + np.square(minor) + np.float32((0.12 * scale_length) ** 2))
    radius = np.exp(log_radius)
    bar_flux = 0.30 * galaxy.bar_strength
    disk_flux = galaxy.total_flux * (1 - galaxy.bulge_to_total) * (1 - bar_flux)
    peak = disk_flux * _NATIVE_AREA / (2 * math.pi * scale_length**2 * galaxy.axis_ratio)
    disk = np.exp(radius * np.float32(-1 / scale_length))
    disk *= np.float32(peak)
    layers = []
    if galaxy.arm_strength:
        arms, dust = _arms(galaxy, log_radius, radius, np.arctan2(minor, major))
        disk *= dust
        layers.append((disk * arms, colours(galaxy.arm_g_r)))
        disk *= np.float32(1 - 0.55 * galaxy.arm_strength)
    if galaxy.bar_strength:
        bar, clearing = _bar(galaxy, major, minor)
        bar *= np.float32(galaxy.total_flux * (1 - galaxy.bulge_to_total) * bar_flux)
        disk *= clearing
        layers.append((bar, colours(galaxy.bulge_g_r - 0.05)))
    if galaxy.ring_strength:
        width = 0.13 * galaxy.ring_radius_arcsec
        ring = np.exp(np.square(radius - np.float32(galaxy.ring_radius_arcsec)) * np.float32(-0.5 / width**2))
        ring *= np.float32(1.3 * galaxy.ring_strength * peak * math.exp(-galaxy.ring_radius_arcsec / scale_length))
        layers.append((ring, colours(galaxy.arm_g_r + 0.1)))
    layers.append((disk, colours(galaxy.disk_g_r)))
    if galaxy.bulge_to_total:
        roundness = 1 - 0.6 * (1 - galaxy.axis_ratio)
        bulge = sersic(galaxy, east, north, galaxy.bulge_radius_arcsec, galaxy.bulge_sersic_index, roundness)
        bulge *= np.float32(galaxy.total_flux * galaxy.bulge_to_total)
        layers.append((bulge, colours(galaxy.bulge_g_r)))
    if galaxy.disturbance:
        tails = _tails(galaxy, major, minor) * np.float32(galaxy.total_flux)
        layers.append((tails, colours(galaxy.arm_g_r + 0.1)))
    return _combine(layers)


def _arms(galaxy: SyntheticGalaxy, log_radius: Plane, radius: Plane, azimuth: Plane) -> tuple[Plane, Plane]:
    """Light of the arms in units of the smooth disk, and the transmission of the dust on their inner side."""
    rng = random_generator(4, galaxy.seed)
    log_radius = log_radius - np.float32(math.log(galaxy.effective_radius_arcsec))
    sense = 1 if galaxy.chirality == "Z" else -1
    wave = np.float32(sense / math.tan(math.radians(galaxy.pitch_angle_deg))) * log_radius
    clumps = np.sin(np.float32(7) * (azimuth - np.float32(0.5) * wave) + np.float32(6.28 * rng.random()))
    clumps += np.sin(np.float32(4) * azimuth + np.float32(9) * log_radius + np.float32(6.28 * rng.random()))
    sharpness = galaxy.arm_sharpness
    strength = 2.1 * galaxy.arm_strength
    if galaxy.arm_count:
        phase = galaxy.arm_phase(log_radius, azimuth)
        arms = np.exp(np.float32(sharpness) * (np.cos(phase) - 1))
        arms *= np.exp(np.float32(0.28) * clumps)
        dust_lane = np.exp(np.float32(4) * (np.cos(phase - np.float32(sense * -0.9)) - 1))
        dust = 1 - np.float32(0.35 * galaxy.dust * galaxy.arm_strength) * dust_lane
    else:  # flocculent: short pieces of arms of many patterns
        clumps += np.sin(np.float32(5) * (azimuth - wave) + np.float32(6.28 * rng.random()))
        clumps += np.sin(np.float32(3) * (azimuth - np.float32(1.6) * wave) + np.float32(6.28 * rng.random()))
        arms = np.exp(np.float32(0.75) * clumps - 1)
        dust = np.ones_like(arms)
    begin, end = galaxy.arm_inner_arcsec, galaxy.arm_outer_arcsec
    arms *= np.float32(strength) / (1 + np.exp(np.float32(7) - radius * np.float32(7 / begin)))
    arms /= 1 + np.exp(np.minimum(radius * np.float32(9 / end) - np.float32(9), np.float32(30)))
    return arms, dust


def _bar(galaxy: SyntheticGalaxy, major: Plane, minor: Plane) -> tuple[Plane, Plane]:
    """Light of the bar (sum 1, per native pixel), and what the disk keeps beside it.

    A Ferrers-like profile (1 - m^2)^1 on boxy ellipses m (Athanassoula et al. 1990).
    """
    squared = galaxy.bar_radius_squared(major, minor)
    bar = np.maximum(1 - squared, np.float32(0))
    area = math.pi * galaxy.bar_semi_length_arcsec**2 * galaxy.bar_axis_ratio * galaxy.axis_ratio
    bar *= np.float32(_NATIVE_AREA / (0.545 * area))
    swept = np.exp((np.square(major) + np.square(minor)) * np.float32(-1 / galaxy.bar_semi_length_arcsec**2))
    return bar, 1 - np.float32(0.6 * galaxy.bar_strength) * swept


def _edge_on(galaxy: SyntheticGalaxy, east: Plane, north: Plane) -> Plane:
    """Draw a disk from its side: exponential, sech^2 across (van der Kruit & Searle 1981), bulge, dust lane."""
    rng = random_generator(5, galaxy.seed)
    scale_length = galaxy.effective_radius_arcsec / 1.678
    height = 0.55 * galaxy.axis_ratio * galaxy.effective_radius_arcsec
    major, minor = galaxy.along_axes(east, north)
    along = np.abs(major) * np.float32(1 / scale_length)
    warp = np.float32(rng.normal(0, 0.006) / galaxy.effective_radius_arcsec**2)
    minor = minor - warp * major * np.square(major)
    decay = np.exp(np.abs(minor) * np.float32(-2 / height))
    # x K1(x), the line of sight through an exponential disk, to 3 %; sech^2 in terms of exp(-2|z|/z0).
    disk = np.exp(-along) * np.sqrt(1 + np.float32(math.pi / 2) * along)
    disk *= 4 * decay / np.square(1 + decay)
    disk_flux = galaxy.total_flux * (1 - galaxy.bulge_to_total)
    disk *= np.float32(disk_flux * _NATIVE_AREA / (2 * math.pi * scale_length * height))
    layers = [(disk, colours(galaxy.disk_g_r))]
    if galaxy.edge_on_bulge == "rounded":
        bulge = sersic(galaxy, east, north, galaxy.bulge_radius_arcsec, galaxy.bulge_sersic_index, 0.85)
        layers.append((bulge * np.float32(galaxy.total_flux * galaxy.bulge_to_total), colours(galaxy.bulge_g_r)))
    elif galaxy.edge_on_bulge == "boxy":
        length, width = 1.7 * galaxy.bulge_radius_arcsec, 1.0 * galaxy.bulge_radius_arcsec
        box = np.square(np.square(major / np.float32(length))) + np.square(np.square(minor / np.float32(width)))
        bulge = np.exp(np.float32(-1.6) * np.sqrt(box) * np.sqrt(box + np.float32(0.02)))
        bulge *= np.float32(galaxy.total_flux * galaxy.bulge_to_total * _NATIVE_AREA / (2.75 * length * width))
        layers.append((bulge, colours(galaxy.bulge_g_r)))
    light = _combine(layers)
    lane = np.exp(np.square((minor - np.float32(0.15 * height)) * np.float32(1 / (0.35 * height))) * np.float32(-0.5))
    lane *= np.exp(np.square(along) * np.float32(-0.1))
    for band, depth in enumerate((0.72, 0.62, 0.40)):
        light[band] *= 1 - np.float32(depth * galaxy.dust) * lane
    if galaxy.disk_g_r < 0.6:  # young galaxies have star-forming knots along the plane
        knots = np.sin(major * np.float32(9 / galaxy.effective_radius_arcsec) + np.float32(6.28 * rng.random()))
        light *= 1 + np.float32(0.25) * knots
    return light


def _tails(galaxy: SyntheticGalaxy, major: Plane, minor: Plane) -> Plane:
    """Draw tidal tails, one or two open, faint arms that reach far out, of a galaxy of flux 1."""
    rng = random_generator(6, galaxy.seed)
    size = galaxy.effective_radius_arcsec
    squared = (np.square(major) + np.square(minor)) * np.float32(1 / size**2) + np.float32(0.01)
    log_radius = np.float32(0.5) * np.log(squared)
    turn = rng.choice([-1.0, 1.0]) / math.tan(math.radians(rng.uniform(32, 50)))
    phase = np.arctan2(minor, major) - np.float32(turn) * log_radius - np.float32(2 * math.pi * rng.random())
    tail = np.exp(np.float32(9) * (np.cos(phase) - 1))
    second = np.float32(rng.uniform(0.0, 0.4))
    tail += second * np.exp(np.float32(12) * (np.cos(phase + np.float32(math.pi + rng.normal(0, 0.4))) - 1))
    reach = np.exp(np.square(log_radius - np.float32(0.5)) * np.float32(-1 / (2 * 0.38**2)))
    peak = 0.085 * galaxy.disturbance * _NATIVE_AREA / (size**2 * max(galaxy.axis_ratio, 0.3))
    light: Plane = tail * reach * np.float32(peak)
    return light


def sersic(
    galaxy: SyntheticGalaxy, east: Plane, north: Plane, radius_arcsec: float, index: float, axis_ratio: float
) -> Plane:
    """Sersic (1963) profile of unit flux, per native pixel, along the galaxy's axes; b_n of Ciotti & Bertin 1999."""
    b = 2 * index - 1 / 3 + 0.009876 / index
    norm = b ** (2 * index) / (2 * math.pi * index * special.gamma(2 * index) * radius_arcsec**2 * axis_ratio)

    def profile(east: Plane, north: Plane) -> Plane:
        major, minor = galaxy.along_axes(east, north)
        squared = np.square(major) + np.square(minor * np.float32(1 / axis_ratio))
        squared *= np.float32(1 / radius_arcsec**2)
        squared += np.float32(1e-8)
        shape: Plane = np.exp(np.float32(-b) * np.exp(np.log(squared) * np.float32(0.5 / index)))
        return shape

    light = profile(east, north)
    _refine_centre(light, profile, east, north)
    light *= np.float32(norm * _NATIVE_AREA)
    return light


def _refine_centre(
    light: Plane, profile: Callable[[Plane, Plane], Plane], east: Plane, north: Plane, reach: int = 4, steps: int = 7
) -> None:
    """Replace the pixels around the centre by the mean over a finer grid, as the profile is cuspy there."""
    column, row = int(np.argmin(np.abs(east))), int(np.argmin(np.abs(north)))
    columns = slice(max(column - reach, 0), column + reach + 1)
    rows = slice(max(row - reach, 0), row + reach + 1)
    if east.size < 2 or north.size < 2:
        return
    shifts = (np.arange(steps, dtype=np.float32) - np.float32((steps - 1) / 2)) / np.float32(steps)
    fine_east = (east[columns, None] + shifts * (east[1] - east[0])).reshape(-1)
    fine_north = (north[rows, None] + shifts * (north[1] - north[0])).reshape(-1)
    fine = profile(fine_east, fine_north)
    light[rows, columns] = fine.reshape(fine_north.size // steps, steps, fine_east.size // steps, steps).mean(
        axis=(1, 3)
    )
