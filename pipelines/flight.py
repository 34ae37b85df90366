"""How far the stream may run ahead of what is written.

Left to itself, Ray Data lets fast stages run ahead of slow ones until the object store is half full: hundreds of units,
which a killed program would have to fetch again. Here a unit is only begun if the actors that there are could be at
work on it: what is in flight, and with it what any kill can cost, is bounded by the pools.
"""

from __future__ import annotations

from typing import Any

from ray.data import DataContext
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)

from pipelines.resources import Pool

__all__ = ["UNITS_PER_SLOT", "BoundedFlight", "bound_flight", "max_units_in_flight"]

UNITS_PER_SLOT = 2
"""One that an actor works on, and one that waits for it: an actor never waits for Ray."""


class BoundedFlight(BackpressurePolicy):
    """Lets the first stage begin a unit when fewer are between it and the last than the actors can hold."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._stages = [stage for stage in self._topology if stage.get_autoscaling_actor_pools()]

    def can_add_input(self, op: Any) -> bool:
        if not self._stages or op is not self._stages[0]:
            return True
        begun = self._stages[0].metrics.num_tasks_submitted
        return bool(begun - self._stages[-1].metrics.num_tasks_finished < self._room())

    def _room(self) -> int:
        pools = [pool for stage in self._stages for pool in stage.get_autoscaling_actor_pools()]
        # A pool whose actors are lost or not there yet counts as one: it will come.
        return sum(max(1, pool.current_size()) * pool.max_tasks_in_flight_per_actor() for pool in pools)


def bound_flight(context: DataContext) -> None:
    """Bound the flight of all streams that are made in this context, beside Ray's own policies."""
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [*ENABLED_BACKPRESSURE_POLICIES, BoundedFlight])


def max_units_in_flight(pools: dict[str, Pool]) -> int:
    """Units that are in flight at most, when every pool is as large as it may become."""
    return sum(pool.max_actors * pool.batches_in_flight * UNITS_PER_SLOT for pool in pools.values())
