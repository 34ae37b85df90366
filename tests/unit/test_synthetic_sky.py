"""The synthetic sky is a function of position: the same for everyone, everywhere on the sphere."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from galaxray.synthetic import Survey, catalog, cutout, galaxies_in, galaxy_at, image, volunteer_masks, votes
from galaxray.synthetic.population import iau_name
from galaxray.synthetic.sky import _GALAXIES, sky_offsets_arcsec

NOISELESS = Survey(sky_noise=(0.0, 0.0, 0.0), max_dec_deg=90.0)

FINGERPRINT = """
import hashlib
from galaxray.synthetic import catalog, cutout, volunteer_masks, votes
digest = hashlib.sha256()
for galaxy in catalog(4, seed=5):
    digest.update(repr(galaxy).encode())
    digest.update(cutout(galaxy.ra_deg, galaxy.dec_deg, 64, 0.4).tobytes())
    digest.update(votes(galaxy).tobytes())
    digest.update(volunteer_masks(galaxy, 32)[0].tobytes())
print(digest.hexdigest())
"""


def test_another_process_sees_the_same_sky() -> None:
    digest = hashlib.sha256()
    for galaxy in catalog(4, seed=5):
        digest.update(repr(galaxy).encode())
        digest.update(cutout(galaxy.ra_deg, galaxy.dec_deg, 64, 0.4).tobytes())
        digest.update(votes(galaxy).tobytes())
        digest.update(volunteer_masks(galaxy, 32)[0].tobytes())
    other = subprocess.run([sys.executable, "-c", FINGERPRINT], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest.hexdigest()


def test_overlapping_cutouts_show_the_same_sources() -> None:
    galaxy = catalog(1, seed=8)[0]
    step = 20 * 0.262 / 3600
    here = cutout(galaxy.ra_deg, galaxy.dec_deg, 160, survey=NOISELESS)
    north = cutout(galaxy.ra_deg, galaxy.dec_deg + step, 160, survey=NOISELESS)
    np.testing.assert_allclose(north[:, 30:150, 10:150], here[:, 10:130, 10:150], atol=0.02 * here.max())


def test_noise_differs_between_places_and_seeds() -> None:
    one = cutout(10.0, 10.0, 32)
    assert not np.array_equal(one, cutout(10.00001, 10.0, 32))
    assert not np.array_equal(one, cutout(10.0, 10.0, 32, survey=Survey(seed=1)))
    assert np.array_equal(one, cutout(10.0, 10.0, 32))


@pytest.mark.parametrize(
    ("ra_deg", "dec_deg", "radius_deg"), [(0.0, 30.0, 0.3), (359.99, -60.0, 0.2), (123.0, 89.9, 0.3), (5.0, -90.0, 0.2)]
)
def test_search_finds_every_galaxy_across_ra_zero_and_at_the_poles(
    ra_deg: float, dec_deg: float, radius_deg: float
) -> None:
    found = galaxies_in(ra_deg, dec_deg, radius_deg * 3600)
    names = [galaxy.object_id for galaxy in found]
    assert len(set(names)) == len(names)
    expected = math.pi * radius_deg**2 / _GALAXIES.cell_deg**2
    assert len(found) == pytest.approx(expected, rel=0.35)
    # Brute force: small circles around every galaxy found find it again, and from the other side of RA 0 too.
    for galaxy in found[::7]:
        assert galaxy_at(galaxy.ra_deg, galaxy.dec_deg) == galaxy
        assert galaxy_at(galaxy.ra_deg - 360, galaxy.dec_deg) == galaxy
    offsets = sky_offsets_arcsec(
        np.array([g.ra_deg for g in found]), np.array([g.dec_deg for g in found]), ra_deg, dec_deg
    )
    distances = np.hypot(*offsets)
    assert np.all(np.diff(distances) >= 0)
    assert distances[-1] <= radius_deg * 3600


def test_a_galaxy_looks_the_same_from_both_sides_of_ra_zero() -> None:
    below = cutout(-0.0001, 12.0, 48, survey=NOISELESS)
    above = cutout(359.9999, 12.0, 48, survey=NOISELESS)
    np.testing.assert_allclose(below, above, atol=1e-4 * max(float(above.max()), 1.0))


def test_catalogues_of_different_seeds_share_nothing_and_grow_at_the_end() -> None:
    names = [{galaxy.object_id for galaxy in catalog(300, seed)} for seed in (0, 1, 63)]
    assert len(set.union(*names)) == 900
    assert catalog(300, 1)[:20] == catalog(20, 1)
    region = {galaxy.object_id for galaxy in catalog(100, 2, (350.0, 10.0, -5.0, 5.0))}
    assert not region & {galaxy.object_id for galaxy in catalog(100, 3, (350.0, 10.0, -5.0, 5.0))}


def test_catalogue_keeps_to_its_region_and_to_what_the_survey_covers() -> None:
    galaxies = catalog(200, 2, (355.0, 5.0, -3.0, 2.0))
    assert all((g.ra_deg >= 355 or g.ra_deg <= 5) and -3 <= g.dec_deg <= 2 for g in galaxies)
    assert any(g.ra_deg > 180 for g in galaxies)
    assert any(g.ra_deg < 180 for g in galaxies)
    assert max(g.dec_deg for g in catalog(3000, 1)) <= Survey().max_dec_deg
    with pytest.raises(ValueError, match=r"only \d+ galaxies"):
        catalog(100, 2, (10.0, 10.2, 0.0, 0.2))
    with pytest.raises(ValueError, match="64 disjoint"):
        catalog(1, seed=64)


def test_catalogue_covers_the_sphere_evenly() -> None:
    sines = np.sin(np.radians([galaxy.dec_deg for galaxy in catalog(2000, 9)]))
    counts, _ = np.histogram(sines, bins=8, range=(-1, math.sin(math.radians(84))))
    assert counts.min() > 0.85 * 250
    assert counts.max() < 1.15 * 250


def test_every_kind_of_galaxy_occurs() -> None:
    galaxies = catalog(1000, 11)
    kinds = Counter(galaxy.kind for galaxy in galaxies)
    stages = Counter(galaxy.merger_stage for galaxy in galaxies)
    arms = Counter(galaxy.arm_count for galaxy in galaxies if galaxy.arm_strength)
    assert min(kinds[kind] for kind in ("smooth", "disk", "edge-on", "artifact")) > 40
    assert min(stages[stage] for stage in ("none", "minor-disturbance", "major-disturbance", "merger")) > 40
    assert min(arms[count] for count in (0, 1, 2, 3, 4, 5, 6)) > 8


def test_names_follow_the_iau() -> None:
    assert iau_name(188.73660, 1.39601) == "J123456.78+012345.6"
    assert iau_name(0.0, -0.5) == "J000000.00-003000.0"
    assert iau_name(359.999999, -89.99999) == "J235959.99-895959.9"


def test_the_sky_is_still_the_one_that_the_built_in_models_were_trained_on() -> None:
    # A failure here means new weights: catalogues, pictures or votes are no longer what they were.
    seen = []
    for galaxy in catalog(3):
        picture = image(galaxy.ra_deg, galaxy.dec_deg, 64, galaxy.size_arcsec / 64)
        seen.append((galaxy.object_id, galaxy.kind, votes(galaxy)[:5].tolist(), picture.mean()))
    assert seen == [
        ("J023025.22-895743.8", "disk", [17, 23, 0, 0, 23], pytest.approx(55.07, abs=0.05)),
        ("J092835.25+055820.9", "smooth", [9, 30, 1, 0, 30], pytest.approx(110.68, abs=0.05)),
        ("J132304.90-522244.5", "edge-on", [0, 39, 1, 37, 2], pytest.approx(42.41, abs=0.05)),
    ]
