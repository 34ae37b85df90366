"""Pictures of the synthetic sky show the parameters that they were made of."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from galaxray.synthetic import Survey, SyntheticGalaxy, catalog, cutout, image, rgb
from galaxray.synthetic.galaxy import random_generator
from galaxray.synthetic.profiles import add_galaxy
from galaxray.synthetic.render import Frame, _observe
from galaxray.synthetic.survey import NATIVE_PIXEL_ARCSEC

DISK = SyntheticGalaxy(
    object_id="J000000.00+000000.0",
    ra_deg=0.0,
    dec_deg=0.0,
    kind="disk",
    seed=1,
    r_magnitude=15.0,
    effective_radius_arcsec=6.0,
    axis_ratio=1.0,
    position_angle_deg=0.0,
)


def draw(galaxy: SyntheticGalaxy, size: int = 121, scale: float = 0.5) -> NDArray[np.float32]:
    """The galaxy alone in g, r, z, without seeing and noise; north up, east left."""
    frame = Frame(0.0, 0.0, size, size, scale)
    flux = np.zeros((3, size, size), dtype=np.float32)
    add_galaxy(flux, galaxy, frame.east, frame.north)
    return flux


def principal_axis_deg(plane: NDArray[np.float32]) -> float:
    """Direction of the longest axis, degrees east of north, by second moments."""
    rows, columns = np.indices(plane.shape, dtype=np.float64)
    centre = (plane.shape[0] - 1) / 2
    north, east = centre - rows, centre - columns
    moments = [float((plane * product).sum()) for product in (east * north, north * north - east * east)]
    return math.degrees(0.5 * math.atan2(2 * moments[0], moments[1])) % 180


@pytest.mark.parametrize("angle", [0.0, 30.0, 100.0, 170.0])
@pytest.mark.parametrize("kind", ["disk", "smooth", "edge-on"])
def test_position_angle_counts_from_north_through_east(kind: str, angle: float) -> None:
    galaxy = replace(
        DISK, kind=kind, axis_ratio=0.3 if kind != "edge-on" else 0.12, position_angle_deg=angle, bulge_sersic_index=1.5
    )
    measured = principal_axis_deg(draw(galaxy)[1])
    assert abs((measured - angle + 90) % 180 - 90) < 2


def test_east_is_left_and_north_is_up() -> None:
    galaxy = next(g for g in catalog(100, 4) if g.kind == "smooth" and g.r_magnitude < 16.5)
    survey = Survey(sky_noise=(0.0, 0.0, 0.0))
    shift = 10 / 3600
    west_of_it = cutout(
        galaxy.ra_deg - shift / math.cos(math.radians(galaxy.dec_deg)), galaxy.dec_deg, 101, 0.5, survey=survey
    )
    row, column = np.unravel_index(west_of_it[1].argmax(), west_of_it[1].shape)
    assert (int(row), int(column)) == (50, 30)  # 10 arcsec to the east: 20 pixels to the left
    south_of_it = cutout(galaxy.ra_deg, galaxy.dec_deg - shift, 101, 0.5, survey=survey)
    row, column = np.unravel_index(south_of_it[1].argmax(), south_of_it[1].shape)
    assert (int(row), int(column)) == (30, 50)


@pytest.mark.parametrize("chirality", ["S", "Z"])
@pytest.mark.parametrize(("count", "pitch"), [(2, 15.0), (3, 25.0)])
def test_arms_wind_as_chirality_and_pitch_angle_say(chirality: str, count: int, pitch: float) -> None:
    galaxy = replace(
        DISK, arm_count=count, arm_strength=1.0, pitch_angle_deg=pitch, chirality=chirality, arm_sharpness=2.0
    )
    plane = draw(galaxy, size=401, scale=0.1)[0]
    radii = np.geomspace(4.0, 9.0, 40)
    angles = np.linspace(0, 2 * math.pi, 720, endpoint=False)  # east of north: anticlockwise as seen
    rows = np.rint(200 - np.outer(radii, np.cos(angles)) / 0.1).astype(int)
    columns = np.rint(200 - np.outer(radii, np.sin(angles)) / 0.1).astype(int)
    phases = np.unwrap(np.angle((plane[rows, columns] * np.exp(-1j * count * angles)).sum(axis=1)))
    slope = -np.polyfit(np.log(radii), phases, 1)[0] / count  # d(angle of the ridge) / d(ln r)
    assert math.copysign(1, slope) == (1 if chirality == "Z" else -1)
    assert math.degrees(math.atan(1 / abs(slope))) == pytest.approx(pitch, abs=1.5)


def test_bar_lies_where_its_angle_and_length_say() -> None:
    barred = replace(
        DISK,
        axis_ratio=0.6,
        position_angle_deg=40.0,
        bar_strength=1.0,
        bar_semi_length_arcsec=5.0,
        bar_axis_ratio=0.25,
        bar_plane_angle_deg=60.0,
    )
    plane = draw(barred, size=241, scale=0.1)[2]
    assert abs((principal_axis_deg(plane * (plane > 0.5 * plane.max())) - barred.bar_angle_deg + 90) % 180 - 90) < 6
    east, north = barred.bar_ends_arcsec
    assert barred.bar_length_arcsec == pytest.approx(2 * math.hypot(east, north))

    def at(east: float, north: float) -> float:
        return float(plane[round(120 - north / 0.1), round(120 - east / 0.1)])

    assert at(0.7 * east, 0.7 * north) > 1.5 * at(-0.7 * north, 0.7 * east)
    assert at(0.7 * east, 0.7 * north) > 2 * at(1.2 * east, 1.2 * north)


@pytest.mark.parametrize(
    "galaxy",
    [
        DISK,
        replace(DISK, kind="smooth", bulge_sersic_index=2.0, axis_ratio=0.7),
        replace(DISK, bulge_to_total=0.4, bulge_sersic_index=3.0),
        replace(DISK, kind="edge-on", axis_ratio=0.15),
        replace(DISK, arm_count=2, arm_strength=0.8),
    ],
    ids=["disk", "smooth", "bulge", "edge-on", "arms"],
)
def test_flux_adds_up_to_the_magnitude_at_any_pixel_scale(galaxy: SyntheticGalaxy) -> None:
    fine, coarse = (
        draw(galaxy, size, scale)[1].sum() * (scale / NATIVE_PIXEL_ARCSEC) ** 2
        for size, scale in ((401, 0.2), (101, 0.8))
    )
    assert fine == pytest.approx(galaxy.total_flux, rel=0.2)
    assert coarse == pytest.approx(fine, rel=0.08)


def test_bulges_are_redder_than_disks_and_disks_than_arms() -> None:
    spiral = replace(DISK, bulge_to_total=0.2, bulge_radius_arcsec=1.0, arm_count=2, arm_strength=1.0, arm_g_r=0.1)
    flux = draw(spiral)
    colour = -2.5 * np.log10(flux[0, 30:91, 30:91] / flux[1, 30:91, 30:91])
    arms = flux[1, 30:91, 30:91] > np.percentile(flux[1], 90)
    assert colour[30, 30] > np.median(colour[arms]) + 0.2


def test_noise_has_the_depth_of_the_survey() -> None:
    survey = Survey(sky_noise=(0.002, 0.004, 0.01))
    noisy, clean = (
        cutout(30.0, 30.0, 200, 0.524, survey=survey),
        cutout(30.0, 30.0, 200, 0.524, survey=replace(survey, sky_noise=(0.0, 0.0, 0.0))),
    )
    measured = (noisy - clean).std(axis=(1, 2))
    assert measured == pytest.approx([0.001, 0.002, 0.005], rel=0.15)  # half of it, as pixels are twice as large


def test_seeing_is_as_wide_as_the_survey_says() -> None:
    flux = np.zeros((3, 300, 300), dtype=np.float32)
    flux[:, 150, 150] = 1.0
    survey = Survey(psf_fwhm_arcsec=(1.0, 2.0, 3.0), sky_noise=(0.0, 0.0, 0.0))
    seen = _observe(flux, 0.05, survey, random_generator(0))
    widths = [(plane > plane.max() / 2).sum() for plane in seen]
    assert [2 * math.sqrt(area / math.pi) * 0.05 for area in widths] == pytest.approx([1.0, 2.0, 3.0], rel=0.06)
    assert seen.sum(axis=(1, 2)) == pytest.approx([1.0, 1.0, 1.0], rel=1e-3)


def test_zero_points_shift_magnitudes() -> None:
    clean = Survey(sky_noise=(0.0, 0.0, 0.0))
    galaxy = catalog(1, 6)[0]
    reference = cutout(galaxy.ra_deg, galaxy.dec_deg, 48, survey=clean)
    fainter = cutout(galaxy.ra_deg, galaxy.dec_deg, 48, survey=replace(clean, zero_point_offset_mag=(0.0, 0.25, 0.0)))
    np.testing.assert_allclose(fainter[1], reference[1] * 10**-0.1, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(fainter[[0, 2]], reference[[0, 2]], rtol=1e-4, atol=1e-6)


def test_bands_come_in_the_order_asked_for() -> None:
    all_bands = cutout(30.0, 30.0, (40, 24), bands="grz")
    assert all_bands.shape == (3, 24, 40)
    assert all_bands.dtype == np.float32
    np.testing.assert_array_equal(cutout(30.0, 30.0, (40, 24), bands="zg"), all_bands[[2, 0]])


def test_what_is_not_covered_is_black() -> None:
    assert not image(30.0, 84.5, 32).any()
    edge = image(30.0, 84.0, 64)
    assert not edge[:31].any()  # the northern half
    assert edge[33:].any(axis=2).mean() > 0.99


def test_picture_is_dark_grey_sky_and_white_stars() -> None:
    sky = rgb(np.full((3, 4, 4), 1e-5, dtype=np.float32))
    assert sky.shape == (4, 4, 3)
    assert sky.dtype == np.uint8
    assert 20 < sky.mean() < 50
    bright = np.empty((3, 2, 2), dtype=np.float32)
    bright[:] = np.array([1 / 6, 1 / 3.4, 1 / 2.2])[:, None, None] * 100
    assert (rgb(bright) == 255).all()
    red = rgb(np.array([0.0, 0.0, 0.1], dtype=np.float32)[:, None, None])[0, 0]
    assert red[0] > 2 * red[2]


def test_training_images_are_not_degenerate() -> None:
    for galaxy in catalog(40, 12):
        picture = image(galaxy.ra_deg, galaxy.dec_deg, 64, galaxy.size_arcsec / 64)
        assert picture.std() > 4
