"""Random numbers of a training by position: what step 1,234 draws does not depend on how the training got there.

A training that is killed goes on from its last checkpoint with the step's number alone, and draws what it would have
drawn; an image is turned and mirrored in the same way in whatever batch, and on whatever worker, it comes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from galaxray.models.splitmix import mix, shift_right, signed

__all__ = ["StepDraws", "epoch_order"]


@dataclass(frozen=True, kw_only=True)
class StepDraws:
    """Random numbers of one step on one worker.

    Parameters
    ----------
    seed : int
        Of the training.
    epoch : int
        Passes through the images that are over.
    step : int
        Steps that are over.
    worker : int
        Which of the workers this is.
    """

    seed: int
    epoch: int
    step: int
    worker: int = 0

    def of_images(self, rows: npt.NDArray[np.integer], count: int) -> Tensor:
        """Uniform random numbers that belong to an image and an epoch.

        Parameters
        ----------
        rows : ndarray of int, (N,)
            Which images.
        count : int
            How many numbers for each.

        Returns
        -------
        Tensor of float32, (N, count)
            In [0, 1).
        """
        key = mix(torch.tensor([signed(self.seed)]) ^ 0x5EED)
        key = mix(key + self.epoch)
        words = mix(mix(torch.from_numpy(np.asarray(rows, np.int64)) ^ key)[:, None] + torch.arange(count))
        return shift_right(words, 40).float() / 2**24

    def generator(self) -> torch.Generator:
        """Generator for what may differ between workers, such as noise."""
        return torch.Generator().manual_seed(self.of_step())

    def of_step(self) -> int:
        """Seed of this step on this worker, for layers that draw from torch's own generator (dropout)."""
        word = mix(torch.tensor([signed(self.seed)]) ^ 0x57E9)
        for number in (self.step, self.worker):
            word = mix(word + number)
        return int(word) & (2**63 - 1)


def epoch_order(num: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Order in which one epoch goes through so many images, int64 (num,)."""
    order: npt.NDArray[np.int64] = np.random.default_rng((seed, epoch, 0x0DE2)).permutation(num)
    return order
