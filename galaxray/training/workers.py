"""Processes that train one model together, by torch.distributed; who starts them is none of its business."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["ALONE", "Workers"]


@dataclass(frozen=True)
class Workers:
    """One process among those that train together.

    Attributes
    ----------
    rank, count : int
        Which one this is, of how many.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def of_process_group(cls) -> Workers:
        """Find this process in the default process group; alone, if there is none."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    @property
    def is_first(self) -> bool:
        """Whether this one tells, and saves, for all."""
        return self.rank == 0

    def mean(self, value: float) -> float:
        """Mean of a number over the workers, on each of them."""
        if self.count == 1:
            return value
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        total = torch.tensor([value], dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return float(total) / self.count

    def share(self, value: Any) -> Any:
        """What the first worker has, on each of them."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


ALONE = Workers()
