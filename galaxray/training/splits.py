"""Which galaxies train, which validate and which test: a hash of the identifier alone decides.

So a galaxy is in the same part in every run, every version and every size of a catalogue, on every machine, and one
that has been tested on is never trained on later by accident.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from galaxray.errors import ConfigError

__all__ = ["SPLITS", "check_fractions", "fold_of", "split_of"]

SPLITS = ("train", "val", "test")
BITS = 48
"""Of the hash: few enough for a float64 to hold, and for as many folds as one likes in an int64."""


def split_of(
    object_ids: Iterable[str], *, val: float = 0.1, test: float = 0.1, seed: int = 0
) -> npt.NDArray[np.object_]:
    """Tell the split of each galaxy.

    The test set is cut from one end of the hash, the validation set from the other: with other fractions (of at most
    one half) either grows or shrinks, and none becomes the other.

    Parameters
    ----------
    object_ids : iterable of str, length N
    val, test : float
        Fractions of all galaxies, in the mean.
    seed : int
        Another seed draws other splits.

    Returns
    -------
    ndarray of object, shape (N,)
        ``"train"``, ``"val"`` or ``"test"``.

    Raises
    ------
    ConfigError
        If a fraction is negative, or both together exceed 1.
    """
    check_fractions(val, test)
    place = _draws(object_ids, f"split {seed}") / 2**BITS
    split = np.full(len(place), "train", dtype=object)
    split[place >= 1 - val] = "val"
    split[place < test] = "test"
    return split


def check_fractions(val: float, test: float) -> None:
    """Refuse fractions that are none; ConfigError names them."""
    if not (val >= 0 and test >= 0 and val + test <= 1):
        raise ConfigError(f"fractions of {val:g} for val and {test:g} for test: each from 0 on, together at most 1")


def fold_of(object_ids: Iterable[str], folds: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Tell the fold of each galaxy for cross-validation; it has nothing to do with its split.

    Parameters
    ----------
    object_ids : iterable of str, length N
    folds : int
        Number of folds, from 2 on.
    seed : int

    Returns
    -------
    ndarray of int64, shape (N,)
        From 0 to ``folds - 1``.

    Raises
    ------
    ConfigError
        If there are fewer than two folds.
    """
    if folds < 2:
        raise ConfigError(f"{folds} folds: at least 2 are needed")
    return _draws(object_ids, f"fold {seed}") * folds >> BITS


def _draws(object_ids: Iterable[str], what: str) -> npt.NDArray[np.int64]:
    """Draw a number from 0 to 2^BITS - 1 for each identifier; int64 (N,)."""
    key = hashlib.sha256(what.encode()).digest()
    hashes = (hashlib.blake2b(name.encode(), digest_size=BITS // 8, key=key).digest() for name in object_ids)
    return np.fromiter(map(int.from_bytes, hashes), dtype=np.int64)
