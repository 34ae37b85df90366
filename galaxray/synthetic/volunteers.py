"""Galaxy Zoo volunteers of the synthetic sky: they answer the GZ DECaLS-5 tree (Walmsley et al. 2022) by what shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from galaxray.synthetic.galaxy import SyntheticGalaxy, random_generator
from galaxray.synthetic.survey import NATIVE_PIXEL_ARCSEC, Survey

__all__ = ["ANSWERS", "LABELS", "Visibility", "vote_probabilities", "votes"]

ANSWERS: dict[str, tuple[str, ...]] = {
    "smooth-or-featured": ("smooth", "featured-or-disk", "artifact"),
    "disk-edge-on": ("yes", "no"),
    "has-spiral-arms": ("yes", "no"),
    "bar": ("strong", "weak", "no"),
    "bulge-size": ("dominant", "large", "moderate", "small", "none"),
    "how-rounded": ("round", "in-between", "cigar-shaped"),
    "edge-on-bulge": ("boxy", "none", "rounded"),
    "spiral-winding": ("tight", "medium", "loose"),
    "spiral-arm-count": ("1", "2", "3", "4", "more-than-4", "cant-tell"),
    "merging": ("none", "minor-disturbance", "major-disturbance", "merger"),
}
LABELS: tuple[str, ...] = tuple(f"{question}-dr5_{answer}" for question in ANSWERS for answer in ANSWERS[question])
"""The 34 answers of the tree ``gz_decals_5``, in its order."""

_STARTS = dict(zip(ANSWERS, np.cumsum([0, *map(len, ANSWERS.values())]).tolist(), strict=False))
_DISAGREEMENT = 0.3
"""Standard deviation, in logit, of what sways the volunteers of a galaxy and cannot be seen in its picture."""


@dataclass(frozen=True)
class Visibility:
    """How clearly each feature shows, 0 to 1, after seeing and noise."""

    depth: float
    arms: float
    bar: float
    ring: float
    edge_on: float
    disturbance: float

    @classmethod
    def of(cls, galaxy: SyntheticGalaxy, survey: Survey | None = None) -> Visibility:
        """Judge what this survey shows of a galaxy."""
        survey = survey or Survey()
        size = galaxy.effective_radius_arcsec
        area = math.pi * size**2 * galaxy.axis_ratio / NATIVE_PIXEL_ARCSEC**2
        signal_to_noise = 0.5 * galaxy.total_flux / area / survey.sky_noise[1]
        depth = signal_to_noise / (signal_to_noise + 2.5)
        fwhm = survey.psf_fwhm_arcsec[1]
        face_on = min(1.0, max(0.0, galaxy.axis_ratio - 0.1) / 0.4)
        opening = math.tan(math.radians(galaxy.pitch_angle_deg)) / max(galaxy.arm_count, 2) ** 0.75
        spacing = size * min(2.1 * math.pi * opening, 1.5) * math.sqrt(galaxy.axis_ratio)
        arms = galaxy.arm_strength * (1 - galaxy.bulge_to_total) ** 0.8
        end_on = galaxy.bar_length_arcsec * galaxy.bar_axis_ratio * 2
        return cls(
            depth=depth,
            arms=arms * depth * face_on * _contrast_left(fwhm / spacing),
            bar=galaxy.bar_strength * depth * math.sqrt(face_on) * _contrast_left(fwhm / max(end_on, 0.1)),
            ring=galaxy.ring_strength * depth * face_on * _contrast_left(fwhm / max(galaxy.ring_radius_arcsec, 0.1)),
            edge_on=depth * (0.8 + 0.2 * galaxy.dust) if galaxy.kind == "edge-on" else 0.0,
            disturbance=galaxy.disturbance * depth,
        )

    @property
    def featured(self) -> float:
        """How clearly any feature shows."""
        hidden = (1 - self.arms) * (1 - 0.85 * self.bar) * (1 - 0.7 * self.ring) * (1 - self.edge_on)
        return 1 - hidden * (1 - 0.55 * self.disturbance)


def _contrast_left(fwhm_over_period: float) -> float:
    """Give what a Gaussian seeing leaves of a periodic contrast (its modulation transfer)."""
    return math.exp(-3.56 * fwhm_over_period**2)


def vote_probabilities(galaxy: SyntheticGalaxy, survey: Survey | None = None) -> NDArray[np.float64]:
    """Give the chance of each answer, given that its question is asked.

    Parameters
    ----------
    galaxy : SyntheticGalaxy
        Whom they look at.
    survey : Survey, optional
        Through which survey.

    Returns
    -------
    float64 (34,)
        In the order of `LABELS`; the answers of each question add up to one. A smooth function of what is visible,
        and of a scatter of 0.3 in logit that belongs to the galaxy but cannot be seen, as no model explains
        every vote.
    """
    visible = Visibility.of(galaxy, survey)
    answers = {
        "smooth-or-featured": _smooth_or_featured(galaxy, visible),
        "disk-edge-on": _edge_on(galaxy),
        "has-spiral-arms": _binary(12 * (visible.arms - 0.20)),
        "bar": _bar(visible),
        "bulge-size": _ordered(math.sqrt(galaxy.bulge_to_total), (0.69, 0.50, 0.325, 0.14), 0.045),
        "how-rounded": _ordered(galaxy.axis_ratio, (0.72, 0.42), 0.045),
        "edge-on-bulge": _edge_on_bulge(galaxy, visible),
        "spiral-winding": _ordered(-galaxy.pitch_angle_deg, (-15.5, -24.0), 1.8),
        "spiral-arm-count": _arm_count(galaxy, visible),
        "merging": _merging(galaxy, visible),
    }
    swayed = np.log(np.maximum(np.concatenate([answers[question] for question in ANSWERS]), 0.012))
    swayed += _DISAGREEMENT * random_generator(8, galaxy.seed).normal(size=len(LABELS))
    chances: NDArray[np.float64] = np.exp(swayed)
    for question, start in _STARTS.items():
        part = chances[start : start + len(ANSWERS[question])]
        part /= part.sum()
    return chances


def votes(galaxy: SyntheticGalaxy, num_volunteers: int = 40, survey: Survey | None = None) -> NDArray[np.int64]:
    """How many volunteers gave each answer.

    Each goes down the tree by the answers given: only who said *featured* is asked about edge-on disks, and so on.
    The volunteers are independent, so those who reach a question divide by one multinomial draw. Whether it merges
    is asked of everyone who did not say *artifact*.

    Returns
    -------
    int64 (34,)
        Votes in the order of `LABELS`. The same galaxy gets the same votes.
    """
    chances = vote_probabilities(galaxy, survey)
    rng = random_generator(9, galaxy.seed, num_volunteers)
    counts = np.zeros(len(LABELS), dtype=np.int64)

    def ask(question: str, volunteers: int) -> list[int]:
        start = _STARTS[question]
        stop = start + len(ANSWERS[question])
        counts[start:stop] = rng.multinomial(volunteers, chances[start:stop])
        return [int(count) for count in counts[start:stop]]

    smooth, featured, _ = ask("smooth-or-featured", num_volunteers)
    ask("how-rounded", smooth)
    edge_on, face_on = ask("disk-edge-on", featured)
    ask("edge-on-bulge", edge_on)
    ask("bar", face_on)
    ask("bulge-size", face_on)
    spiral, _ = ask("has-spiral-arms", face_on)
    ask("spiral-winding", spiral)
    ask("spiral-arm-count", spiral)
    ask("merging", smooth + featured)
    return counts


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, logit))))


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    odds = np.exp(logits)
    chances: NDArray[np.float64] = odds / odds.sum()
    return chances


def _binary(logit: float) -> NDArray[np.float64]:
    yes = _sigmoid(logit)
    return np.array([yes, 1 - yes])


def _ordered(value: float, cuts: tuple[float, ...], blur: float) -> NDArray[np.float64]:
    """Ordered answers, first for the largest values; neighbours mix within ``blur`` of the falling ``cuts``."""
    above = [_sigmoid((value - cut) / blur) for cut in cuts]
    return np.diff([0.0, *above, 1.0])


def _smooth_or_featured(galaxy: SyntheticGalaxy, visible: Visibility) -> NDArray[np.float64]:
    artifact = 0.93 if galaxy.artifact != "none" else 0.015 + 0.1 * (1 - visible.depth) ** 3
    featured = _sigmoid(9.0 * (visible.featured - 0.30))
    return np.array([(1 - artifact) * (1 - featured), (1 - artifact) * featured, artifact])


def _edge_on(galaxy: SyntheticGalaxy) -> NDArray[np.float64]:
    if galaxy.kind == "smooth":  # a cigar may pass for an edge-on disk
        return _binary((0.30 - galaxy.axis_ratio) / 0.05)
    return _binary((galaxy.inclination_deg - 76.0) / 1.8)


def _bar(visible: Visibility) -> NDArray[np.float64]:
    barred = _sigmoid(14 * (visible.bar - 0.17))
    strong = _sigmoid(14 * (visible.bar - 0.37))
    return np.array([barred * strong, barred * (1 - strong), 1 - barred])


def _edge_on_bulge(galaxy: SyntheticGalaxy, visible: Visibility) -> NDArray[np.float64]:
    clarity = max(visible.edge_on, 0.05)
    bulge = galaxy.edge_on_bulge if galaxy.kind == "edge-on" else "rounded"
    logits = np.array([4.0 * clarity * (bulge == answer) for answer in ANSWERS["edge-on-bulge"]])
    logits += np.array([-0.6, 0.0, 0.2])
    return _softmax(logits)


def _arm_count(galaxy: SyntheticGalaxy, visible: Visibility) -> NDArray[np.float64]:
    logits = np.array([-1.0, 0.6, -0.6, -0.8, -0.8, 0.4])
    if galaxy.arm_strength:
        answer = min(galaxy.arm_count, 5) - 1 if galaxy.arm_count else 5
        logits[answer] += 5.0 * visible.arms
        if answer in (2, 3, 4):  # three, four and five arms are easily miscounted
            logits[2:5] += 1.2 * visible.arms
        logits[5] -= 1.0 * visible.arms * (answer != 5)
    return _softmax(logits)


def _merging(galaxy: SyntheticGalaxy, visible: Visibility) -> NDArray[np.float64]:
    if galaxy.merger_stage == "merger":
        logits = np.array([0.0, 0.0, 0.8, 2.0 + 1.5 * visible.depth])
    else:
        disturbed = visible.disturbance
        minor = 0.6 + 3 * disturbed - 6 * max(disturbed - 0.4, 0)
        merger = -0.6 + 0.8 * bool(galaxy.companions)
        logits = np.array([3.2 - 9 * disturbed, minor, -1.0 + 5 * disturbed, merger])
    return _softmax(logits)
