"""Scores on cases whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from galaxray.training.scores import binary_scores, pca_reconstruction_error, score_masks, score_votes
from galaxray.trees import load_tree

TREE = load_tree("gz_decals_5")


def simulate(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Concentrations, and probabilities and votes that follow them."""
    rng = np.random.default_rng(seed)
    alpha = rng.uniform(1, 30, (num, len(TREE)))
    probabilities = np.empty_like(alpha)
    votes = np.empty(alpha.shape, np.int64)
    for q in TREE.questions:
        for row in range(num):
            probabilities[row, q.start : q.stop] = rng.dirichlet(alpha[row, q.start : q.stop])
        votes[:, q.start : q.stop] = rng.multinomial(40, probabilities[:, q.start : q.stop])
    return alpha[:, :, None], probabilities, votes


def test_a_perfect_model_covers_what_it_says() -> None:
    alpha, probabilities, votes = simulate(400)
    scores = score_votes(alpha, TREE, votes, probabilities)
    assert scores["coverage"] == pytest.approx(0.9, abs=0.01)
    assert scores["mae_probabilities"] < scores["mae_votes"]


def test_an_overconfident_model_is_found_out() -> None:
    alpha, probabilities, votes = simulate(200)
    assert score_votes(20 * alpha, TREE, votes, probabilities)["coverage"] < 0.5


def test_questions_that_few_were_asked_do_not_count() -> None:
    alpha, probabilities, votes = simulate(50)
    bar = TREE.question("bar")
    votes[:, bar.start : bar.stop] = [3, 3, 3]
    assert "bar_accuracy" not in score_votes(alpha, TREE, votes, probabilities)


def test_accuracy_counts_galaxies_on_which_volunteers_agree() -> None:
    q = TREE.question("disk-edge-on")
    alpha = np.ones((3, len(TREE), 1))
    votes = np.zeros((3, len(TREE)), np.int64)
    alpha[:, q.start] = 50
    votes[:, q.start : q.stop] = [[36, 4], [4, 36], [24, 16]]
    scores = score_votes(alpha, TREE, votes, np.full((3, len(TREE)), 0.5))
    assert scores["disk-edge-on_accuracy"] == 0.5
    assert scores["disk-edge-on_galaxies"] == 2


def test_masks() -> None:
    volunteers = np.zeros((3, 2, 8, 8), np.uint8)
    volunteers[0, 0, :4] = 255
    volunteers[1, 0, :4] = 100
    predicted = np.zeros_like(volunteers)
    predicted[0, 0, 2:6] = 200
    predicted[2, 0, 0, 0] = 255
    scores = score_masks(predicted, volunteers)
    assert scores["spiral_iou"] == pytest.approx(2 / 6)
    assert scores["spiral_galaxies"] == 1
    assert scores["spiral_false"] == 0.5
    assert scores["bar_galaxies"] == 0
    assert np.isnan(scores["bar_iou"])


def test_components_reconstruct_what_lies_in_their_plane() -> None:
    rng = np.random.default_rng(0)
    basis = rng.uniform(-20, 20, (3, 6, 6, 3))
    images = np.clip(128 + np.tensordot(rng.normal(size=(60, 3)), basis, 1), 0, 255).astype(np.uint8)
    errors = pca_reconstruction_error(images[:40], images[40:], (1, 3))
    assert errors[3] < 1e-4 < errors[1]


def test_binary_scores() -> None:
    scores = binary_scores(np.array([0.1, 0.4, 0.6, 0.9]), np.array([0, 1, 0, 1]))
    assert scores["balanced-accuracy"] == 0.5
    assert scores["auc"] == 0.75
