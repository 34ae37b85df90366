"""Volunteers of the synthetic sky answer the tree by what shows, and draw where it shows."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from galaxray.synthetic import (
    LABELS,
    Survey,
    SyntheticGalaxy,
    catalog,
    image,
    true_masks,
    volunteer_masks,
    vote_probabilities,
    votes,
)
from galaxray.synthetic.render import Frame
from galaxray.trees import load_tree

BARRED_SPIRAL = SyntheticGalaxy(
    object_id="J000000.00+000000.0",
    ra_deg=0.0,
    dec_deg=0.0,
    kind="disk",
    seed=7,
    r_magnitude=15.0,
    effective_radius_arcsec=8.0,
    axis_ratio=0.8,
    position_angle_deg=25.0,
    bulge_to_total=0.15,
    bar_strength=1.0,
    bar_semi_length_arcsec=6.0,
    bar_plane_angle_deg=70.0,
    arm_count=2,
    arm_strength=1.0,
    pitch_angle_deg=20.0,
    chirality="S",
)


def chance(galaxy: SyntheticGalaxy, label: str, survey: Survey | None = None) -> float:
    return float(vote_probabilities(galaxy, survey)[LABELS.index(label)])


def test_labels_are_those_of_the_tree() -> None:
    assert tuple(load_tree("gz_decals_5").labels) == LABELS


def test_votes_go_down_the_tree() -> None:
    for galaxy in catalog(200, 21):
        count = dict(zip(LABELS, votes(galaxy, 40), strict=True))

        def asked(question: str, count: dict[str, int] = count) -> int:
            return sum(number for label, number in count.items() if label.startswith(f"{question}-dr5_"))

        assert asked("smooth-or-featured") == 40
        assert asked("how-rounded") == count["smooth-or-featured-dr5_smooth"]
        assert asked("disk-edge-on") == count["smooth-or-featured-dr5_featured-or-disk"]
        assert asked("edge-on-bulge") == count["disk-edge-on-dr5_yes"]
        for question in ("bar", "bulge-size", "has-spiral-arms"):
            assert asked(question) == count["disk-edge-on-dr5_no"]
        for question in ("spiral-winding", "spiral-arm-count"):
            assert asked(question) == count["has-spiral-arms-dr5_yes"]
        assert asked("merging") == 40 - count["smooth-or-featured-dr5_artifact"]


def test_votes_are_drawn_from_the_probabilities() -> None:
    tree = load_tree("gz_decals_5")
    chi_squared, terms = 0.0, 0
    for galaxy in catalog(150, 22):
        counts, chances = votes(galaxy, 1000), vote_probabilities(galaxy)
        for question in tree.questions:
            part = slice(question.start, question.stop)
            expected = counts[part].sum() * chances[part]
            if expected.min() > 5:
                chi_squared += float(((counts[part] - expected) ** 2 / expected).sum())
                terms += question.stop - question.start - 1
    assert terms > 1000
    assert chi_squared / terms == pytest.approx(1.0, abs=5 * math.sqrt(2 / terms))


def test_probabilities_of_each_question_add_up_to_one() -> None:
    for galaxy in catalog(50, 23):
        chances = vote_probabilities(galaxy)
        assert (chances > 0).all()
        for question in load_tree("gz_decals_5").questions:
            assert chances[question.start : question.stop].sum() == pytest.approx(1)


def test_the_same_galaxy_gets_the_same_votes() -> None:
    galaxy = catalog(1, 24)[0]
    assert np.array_equal(votes(galaxy), votes(galaxy))
    assert not np.array_equal(votes(galaxy, 200), votes(replace(galaxy, seed=galaxy.seed + 1), 200))


def test_every_answer_occurs_often_enough_to_learn() -> None:
    counts = np.sum([votes(galaxy) for galaxy in catalog(1000, 25)], axis=0)
    for question in load_tree("gz_decals_5").questions:
        part = counts[question.start : question.stop]
        assert part.min() / part.sum() > 0.04, question.name


def test_clear_features_are_seen() -> None:
    assert chance(BARRED_SPIRAL, "smooth-or-featured-dr5_featured-or-disk") > 0.8
    assert chance(BARRED_SPIRAL, "disk-edge-on-dr5_no") > 0.9
    assert chance(BARRED_SPIRAL, "has-spiral-arms-dr5_yes") > 0.9
    assert chance(BARRED_SPIRAL, "bar-dr5_strong") > 0.8
    assert chance(BARRED_SPIRAL, "spiral-arm-count-dr5_2") > 0.7
    plain = replace(BARRED_SPIRAL, bar_strength=0.0, arm_strength=0.0)
    assert chance(plain, "smooth-or-featured-dr5_smooth") > 0.7
    assert chance(plain, "bar-dr5_no") > 0.8
    edge_on = replace(plain, kind="edge-on", inclination_deg=88.0, axis_ratio=0.15)
    assert chance(edge_on, "disk-edge-on-dr5_yes") > 0.9
    assert chance(replace(plain, artifact="satellite-trail"), "smooth-or-featured-dr5_artifact") > 0.7


@pytest.mark.parametrize(
    "label", ["smooth-or-featured-dr5_featured-or-disk", "has-spiral-arms-dr5_yes", "bar-dr5_strong"]
)
def test_what_is_faint_small_or_blurred_is_not_seen(label: str) -> None:
    clear = chance(BARRED_SPIRAL, label)
    faint = replace(BARRED_SPIRAL, r_magnitude=21.5)
    small = replace(BARRED_SPIRAL, effective_radius_arcsec=1.5, bar_semi_length_arcsec=1.1, r_magnitude=18.5)
    blurred = Survey(psf_fwhm_arcsec=(6.0, 6.0, 6.0))
    assert max(chance(faint, label), chance(small, label), chance(BARRED_SPIRAL, label, blurred)) < clear - 0.3


def test_arm_mask_lies_on_the_light_of_the_arms() -> None:
    spirals = [
        galaxy
        for galaxy in catalog(600, 26)
        if galaxy.kind == "disk" and galaxy.arm_count and not galaxy.disturbance and vote_probabilities(galaxy)[5] > 0.9
    ]
    assert len(spirals) > 20
    for galaxy in spirals[:20]:
        size = 96
        scale = galaxy.size_arcsec / size
        blue = image(galaxy.ra_deg, galaxy.dec_deg, size, scale)[..., 2].astype(float)
        spiral, _ = volunteer_masks(galaxy, size)
        frame = Frame(galaxy.ra_deg, galaxy.dec_deg, size, size, scale)
        major, minor = galaxy.disk_plane(frame.east, frame.north)
        radius = np.hypot(major, minor) / galaxy.effective_radius_arcsec
        brighter = []
        for inner in np.arange(0.6, 1.5, 0.15):  # at equal radius, arms are brighter than what lies between them
            annulus = (radius > inner) & (radius < inner + 0.15)
            on, off = annulus & (spiral > 0.5), annulus & (spiral < 0.1)
            if on.sum() > 10 and off.sum() > 10:
                brighter.append(np.median(blue[on]) - np.median(blue[off]))
        assert brighter
        assert np.mean(brighter) > 0


def test_bar_mask_holds_the_bar() -> None:
    size, scale = 128, 0.35
    _, bar = volunteer_masks(BARRED_SPIRAL, size, scale)
    _, truth = true_masks(BARRED_SPIRAL, size, scale)
    drawn = bar > 0.5
    assert (drawn & truth).sum() / (drawn | truth).sum() > 0.7
    east, north = (0.8 * end for end in BARRED_SPIRAL.bar_ends_arcsec)
    centre = (size - 1) / 2
    assert bar[round(centre - north / scale), round(centre - east / scale)] > 0.5
    assert bar[round(centre - east / scale), round(centre + north / scale)] < 0.2  # a right angle away


def test_masks_count_volunteers() -> None:
    spiral, bar = volunteer_masks(BARRED_SPIRAL, 64, num_volunteers=15)
    for mask in (spiral, bar):
        assert mask.dtype == np.float32
        assert mask.shape == (64, 64)
        assert 0.6 < mask.max() <= 1
        np.testing.assert_allclose(mask * 15, np.round(mask * 15), atol=1e-5)


def test_masks_are_empty_where_there_is_nothing_to_draw() -> None:
    smooth = next(galaxy for galaxy in catalog(50, 27) if galaxy.kind == "smooth")
    assert not any(mask.any() for mask in (*volunteer_masks(smooth, 32), *true_masks(smooth, 32)))
