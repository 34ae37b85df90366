"""One limit for all fetchers of a run, on whatever nodes they are.

The governor of the service (`galaxray.cutouts.Governor`) lives in an actor, and every fetcher's limiter asks it. If it
is lost, the fetchers send nothing new; Ray starts another one, which lets the old grants run out, and goes on at the
pace that the fetchers tell it.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from typing import Any

import ray
from ray.util.annotations import RayDeprecationWarning
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from galaxray.config import CutoutConfig
from galaxray.cutouts import GovernedLimiter, Governor, Grant, Report, Snapshot, make_governor
from pipelines.metrics import WatchedGovernor

__all__ = ["GovernorHandle", "shared_limiter", "start_governor"]

ANSWER_TIMEOUT_S = 5.0
# A governor that does not answer for so long is as good as lost for the moment.

GovernorHandle = Any
"""Ray's handle of a `GovernorActor`."""


class GovernorActor:
    """A governor for fetchers anywhere in the cluster."""

    def __init__(self, config: CutoutConfig, watched_as: str | None = None) -> None:
        with warnings.catch_warnings():  # Ray uses there what it has deprecated itself
            warnings.simplefilter("ignore", RayDeprecationWarning)
            is_successor = ray.get_runtime_context().was_current_actor_reconstructed
        self._governor: Governor | WatchedGovernor = make_governor(config, is_successor=is_successor)
        if watched_as is not None:
            self._governor = WatchedGovernor(self._governor, config, watched_as)

    def sync(self, report: Report) -> Grant:
        """Take a fetcher's report and grant what it may do now."""
        return self._governor.sync(time.monotonic(), report)

    def snapshot(self) -> Snapshot:
        """The state as it is now, for those who watch."""
        return self._governor.snapshot(time.monotonic())


def start_governor(config: CutoutConfig, watched_as: str | None = None) -> GovernorHandle:
    """Start the governor of a run, on the node of the caller if it stays there.

    It ends when the last handle is gone. ``watched_as`` is the run's name in metrics, if it has any.
    """
    here = ray.get_runtime_context().get_node_id()
    actor = ray.remote(GovernorActor).options(
        num_cpus=0, max_restarts=-1, scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=True)
    )
    return actor.remote(config, watched_as)


def shared_limiter(governor: GovernorHandle) -> GovernedLimiter:
    """Make the limiter of one fetcher; in its process."""

    async def ask(report: Report) -> Grant:
        grant: Grant = await asyncio.wait_for(governor.sync.remote(report), ANSWER_TIMEOUT_S)
        return grant

    return GovernedLimiter(ask)
