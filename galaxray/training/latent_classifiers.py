"""How much of a class is in an embedding: simple classifiers on latents that were learned without labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

__all__ = ["accuracies", "by_logistic_regression", "by_neighbours"]

Floats = npt.NDArray[np.floating]
Classes = npt.NDArray[np.int64]
NEIGHBOURS = 15
CHUNK = 1024  # rows of a matrix of distances


def accuracies(train: Floats, train_class: Classes, test: Floats, test_class: Classes) -> dict[str, float]:
    """Share of galaxies that simple classifiers on latents get right.

    Parameters
    ----------
    train, test : ndarray, (N, D)
        Latents, whose scale is that of a VAE: about 1 where a dimension is used, about 0 where it is not.
    train_class, test_class : ndarray of int, (N,)
        Index of the class from 0.

    Returns
    -------
    dict
        ``knn`` and ``logistic``: accuracy on the test galaxies; with ``_error`` its standard error (binomial), with
        ``_balanced`` the mean of the accuracies by class. ``majority``: accuracy of always guessing the class that is
        most frequent in training.
    """
    guesses = {
        "knn": by_neighbours(train, train_class, test),
        "logistic": by_logistic_regression(train, train_class, test),
    }
    figures = {"majority": float((test_class == np.bincount(train_class).argmax()).mean())}
    for name, guess in guesses.items():
        right = guess == test_class
        share = float(right.mean())
        by_class = [right[test_class == one].mean() for one in np.unique(test_class)]
        figures[name] = share
        figures[f"{name}_error"] = float(np.sqrt(share * (1 - share) / len(right)))
        figures[f"{name}_balanced"] = float(np.mean(by_class))
    return figures


def by_neighbours(train: Floats, train_class: Classes, test: Floats, neighbours: int = NEIGHBOURS) -> Classes:
    """Class of most of the nearest training galaxies; at a tie the first, (N,)."""
    neighbours = min(neighbours, len(train))
    one_hot = np.eye(int(train_class.max()) + 1)[train_class]
    squares = np.square(train).sum(1)
    parts = []
    for start in range(0, len(test), CHUNK):
        # the test galaxy's own square is the same for all of its neighbours
        distance = squares - 2 * test[start : start + CHUNK] @ train.T
        nearest = np.argpartition(distance, neighbours - 1, axis=1)[:, :neighbours]
        parts.append(one_hot[nearest].sum(1).argmax(1))
    return np.concatenate(parts)


def by_logistic_regression(train: Floats, train_class: Classes, test: Floats, penalty: float = 1.0) -> Classes:
    """Class by multinomial logistic regression, (N,).

    Parameters
    ----------
    penalty : float
        Half of it times the sum of squared weights is added to the sum of the log losses.
    """
    inputs = np.column_stack([train, np.ones(len(train))]).astype(np.float64)
    shape = (inputs.shape[1], int(train_class.max()) + 1)
    one_hot = np.eye(shape[1])[train_class]

    def loss(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        weights = flat.reshape(shape)
        logits = inputs @ weights
        pulled = np.vstack([weights[:-1], np.zeros(shape[1])])  # the intercept is free
        value = -float((one_hot * log_softmax(logits, axis=1)).sum()) + penalty / 2 * float(np.square(pulled).sum())
        gradient = inputs.T @ (softmax(logits, axis=1) - one_hot) + penalty * pulled
        return value, gradient.ravel()

    found = minimize(loss, np.zeros(shape[0] * shape[1]), jac=True, method="L-BFGS-B").x.reshape(shape)
    guess: Classes = (test @ found[:-1] + found[-1]).argmax(1)
    return guess
