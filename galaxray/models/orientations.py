"""A galaxy has no up and down: the symmetries of a square, and what a mirror does to labels."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from galaxray.errors import ConfigError

__all__ = ["NUM_ORIENTATIONS", "mirror_order", "oriented"]

NUM_ORIENTATIONS = 8
"""Four turns, each with its mirror image."""

HANDED = (("clockwise", "anticlockwise"), ("clockwise", "counterclockwise"), ("cw", "acw"), ("cw", "ccw"))
"""Words for the two directions in which spiral arms may wind."""


def oriented(images: Tensor, number: int) -> Tensor:
    """Turn images by right angles and, for odd numbers, mirror them; no pixel is interpolated.

    Parameters
    ----------
    images : Tensor, (N, C, S, S)
    number : int
        From 0, which leaves them as they are, to 7. The first two are mirror images, the first four contain a turn by
        180 degrees: few already cover as much as they can.
    """
    if number == 0:
        return images
    turned = torch.rot90(images, (0, 2, 1, 3)[number // 2], (2, 3))
    turned = turned.flip(3) if number % 2 else turned
    return turned.contiguous(memory_format=torch.channels_last)  # as convolutions like it


def mirror_order(labels: Sequence[str], swaps: Sequence[tuple[str, str]] | None = None) -> list[int]:
    """Where each label's value is found when the image is mirrored: clockwise arms wind anticlockwise then.

    Parameters
    ----------
    labels : sequence of str
        E.g. ``P_CW`` and ``P_ACW``.
    swaps : sequence of (str, str), optional
        Pairs of labels; those that differ in nothing but a word for the direction, if left out.

    Returns
    -------
    list of int
        ``values[:, order]`` are those of the mirrored images.

    Raises
    ------
    ConfigError
        If a pair names a label that is not there.
    """
    order = list(range(len(labels)))
    for first, second in _handed(labels) if swaps is None else swaps:
        for label in (first, second):
            if label not in labels:
                raise ConfigError(
                    f"{label!r} is to be swapped in mirror images, but the labels are {', '.join(labels)}"
                )
        left, right = labels.index(first), labels.index(second)
        order[left], order[right] = right, left
    return order


def _handed(labels: Sequence[str]) -> list[tuple[str, str]]:
    plain = {label: re.sub(r"[^a-z0-9]+", "_", label.lower()) for label in labels}
    words = {
        label: re.sub("(anti|counter)_clockwise", r"\1clockwise", text).split("_") for label, text in plain.items()
    }
    return [
        (first, second)
        for first in labels
        for second in labels
        for left, right in HANDED
        if left in words[first] and [right if word == left else word for word in words[first]] == words[second]
    ]
