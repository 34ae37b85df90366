"""Figures of merit on labelled galaxies: votes, intervals, masks, reconstructions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

from galaxray import posterior
from galaxray.trees import DecisionTree

__all__ = [
    "ACTIVE_VARIANCE",
    "HALF",
    "MASK_NAMES",
    "binary_scores",
    "pca_reconstruction_error",
    "score_masks",
    "score_reconstruction",
    "score_votes",
]

AGREEMENT = 0.8
MIN_VOTERS = 10
MASK_NAMES = ("spiral", "bar")
HALF = 128  # of 255
ACTIVE_VARIANCE = 0.01
"""A latent dimension is active if its mean varies more than this between images (Burda et al. 2016)."""


def score_votes(
    concentrations: npt.NDArray[np.floating],
    tree: DecisionTree,
    votes: npt.NDArray[np.integer],
    probabilities: npt.NDArray[np.floating],
    level: float = 0.9,
) -> dict[str, float]:
    """Accuracy, error and coverage of predicted votes.

    Only questions that at least ``MIN_VOTERS`` volunteers of a galaxy were asked count.

    Parameters
    ----------
    concentrations : ndarray, (N, A, D)
        Dirichlet concentrations of D passes.
    tree : DecisionTree
    votes : ndarray of int, (N, A)
        What volunteers answered.
    probabilities : ndarray, (N, A)
        What the simulator made them answer with: each galaxy's own probabilities, 1 in sum over a question's answers.
    level : float
        Of the interval.

    Returns
    -------
    dict
        ``QUESTION_accuracy`` (predicted and most frequent answer are the same, where at least 80 % of volunteers
        agree), ``QUESTION_galaxies`` (how many those are), ``QUESTION_mae``; over all questions ``mae_votes`` (mean
        absolute error against observed fractions), ``mae_probabilities`` (against the true ones) and ``coverage``
        (share of true probabilities in the interval of the mixture), also by question.
    """
    predicted = posterior.fractions(concentrations, tree)
    lower, upper = posterior.intervals(concentrations, tree, level)
    inside = (lower <= probabilities) & (probabilities <= upper)
    scores: dict[str, float] = {}
    sums = np.zeros((3, 0))
    for question in tree.questions:
        answers = slice(question.start, question.stop)
        voters = votes[:, answers].sum(axis=1)
        asked = voters >= MIN_VOTERS
        if not asked.any():
            continue
        observed = votes[asked, answers] / voters[asked, None]
        agree = observed.max(axis=1) >= AGREEMENT
        right = predicted[asked, answers].argmax(axis=1) == observed.argmax(axis=1)
        errors = np.stack(
            [
                np.abs(predicted[asked, answers] - observed).ravel(),
                np.abs(predicted[asked, answers] - probabilities[asked, answers]).ravel(),
                inside[asked, answers].ravel(),
            ]
        )
        sums = np.concatenate([sums, errors], axis=1)
        scores[f"{question.stem}_accuracy"] = float(right[agree].mean()) if agree.any() else float("nan")
        scores[f"{question.stem}_balanced-accuracy"] = _balanced(right[agree], observed[agree].argmax(axis=1))
        scores[f"{question.stem}_galaxies"] = int(agree.sum())
        scores[f"{question.stem}_mae"] = float(errors[0].mean())
        scores[f"{question.stem}_coverage"] = float(errors[2].mean())
    scores.update(zip(("mae_votes", "mae_probabilities", "coverage"), map(float, sums.mean(axis=1)), strict=True))
    return scores


def _balanced(right: npt.NDArray[np.bool_], classes: npt.NDArray[np.integer]) -> float:
    """Mean over classes of the share of right answers; NaN without any."""
    shares = [right[classes == one].mean() for one in np.unique(classes)]
    return float(np.mean(shares)) if shares else float("nan")


def score_masks(
    predicted: npt.NDArray[np.uint8], volunteers: npt.NDArray[np.uint8], cut: int = HALF
) -> dict[str, float]:
    """Intersection over union of predicted masks and those of half of the volunteers.

    Parameters
    ----------
    predicted, volunteers : ndarray of uint8, (N, 2, H, W)
        Spiral arms and bar; 255 = every volunteer.
    cut : int
        A pixel belongs to the predicted mask from this value; to the volunteers', from half of them.

    Returns
    -------
    dict
        For ``spiral`` and ``bar``: ``_iou`` (mean over galaxies where half of the volunteers agree on
        a pixel), ``_pooled-iou`` (of all their pixels together), ``_galaxies`` (how many those are), ``_missed``
        (the share of them where nothing is predicted), ``_false`` (the share of the other galaxies where
        something is).
    """
    scores: dict[str, float] = {}
    for channel, name in enumerate(MASK_NAMES):
        ours = (predicted[:, channel] >= cut).reshape(len(predicted), -1)
        theirs = (volunteers[:, channel] >= HALF).reshape(len(volunteers), -1)
        marked = theirs.any(axis=1)
        both, either = (ours & theirs)[marked].sum(axis=1), (ours | theirs)[marked].sum(axis=1)
        scores[f"{name}_iou"] = float((both / either).mean()) if marked.any() else float("nan")
        scores[f"{name}_pooled-iou"] = float(both.sum() / either.sum()) if marked.any() else float("nan")
        scores[f"{name}_galaxies"] = int(marked.sum())
        scores[f"{name}_missed"] = float(1 - ours[marked].any(axis=1).mean()) if marked.any() else float("nan")
        scores[f"{name}_false"] = float(ours[~marked].any(axis=1).mean()) if not marked.all() else float("nan")
    return scores


def pca_reconstruction_error(
    train: npt.NDArray[np.uint8], test: npt.NDArray[np.uint8], components: tuple[int, ...]
) -> dict[int, float]:
    """Mean squared error of reconstructions by principal components, images in [0, 1].

    Parameters
    ----------
    train, test : ndarray of uint8, (N, ...)
        Images that the components are found on, and images that are reconstructed.
    components : tuple of int
        Numbers of components; fewer, where there are fewer training images.

    Returns
    -------
    dict
        From number of components to error per pixel and channel.
    """
    flat = train.reshape(len(train), -1).astype(np.float32) / 255
    mean = flat.mean(axis=0)
    flat -= mean
    # few images, many pixels: the eigenvectors of the small Gram matrix give those of the covariance
    values, vectors = np.linalg.eigh(flat @ flat.T)
    largest = np.argsort(values)[::-1][: min(max(components), len(train) - 1)]
    basis = (vectors[:, largest] / np.sqrt(values[largest])).T @ flat
    held_out = test.reshape(len(test), -1).astype(np.float32) / 255 - mean
    total = np.square(held_out).sum(axis=1)
    explained = np.cumsum(np.square(held_out @ basis.T), axis=1)
    return {n: float((total - explained[:, min(n, len(basis)) - 1]).mean() / flat.shape[1]) for n in components}


def score_reconstruction(
    errors: npt.NDArray[np.floating], means: npt.NDArray[np.floating], active_above: float = ACTIVE_VARIANCE
) -> dict[str, float]:
    """Mean error of a VAE's reconstructions, and how many latent dimensions it uses.

    Parameters
    ----------
    errors : ndarray, (N,)
        Mean squared error of each image, in [0, 1].
    means : ndarray, (N, latent)
        Means of the latent distributions.
    active_above : float
        A dimension is active if its mean varies more than this between images (Burda et al. 2016).
    """
    active = int((means.var(axis=0) > active_above).sum())
    return {"mse": float(errors.mean()), "latent_dim": means.shape[1], "active_dims": active}


def binary_scores(scores: npt.NDArray[np.floating], positive: npt.NDArray[np.integer]) -> dict[str, float]:
    """Balanced accuracy at 0.5 and area under the ROC curve of a score for one class against another.

    Parameters
    ----------
    scores : ndarray, (N,)
        Larger for the positive class.
    positive : ndarray of int, (N,)
        1 or 0.
    """
    truth = positive == 1
    accuracy = ((scores[truth] >= 0.5).mean() + (scores[~truth] < 0.5).mean()) / 2
    ranks = stats.rankdata(scores)
    num_true, num_false = int(truth.sum()), int((~truth).sum())
    area = (ranks[truth].sum() - num_true * (num_true + 1) / 2) / (num_true * num_false)
    return {
        "balanced-accuracy": float(accuracy),
        "auc": float(area),
        "positive": num_true,
        "negative": num_false,
    }
