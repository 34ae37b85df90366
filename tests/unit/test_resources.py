from __future__ import annotations

import pytest

from galaxray.config import RunConfig
from galaxray.errors import PlanError
from pipelines.resources import TASK_CPUS, allot, describe


def config(**compute) -> RunConfig:
    stages = compute.pop("stages", ("fetch", "classify", "embed", "segment"))
    return RunConfig(catalog="a.csv", output="out", stages=stages, compute=compute)


@pytest.mark.parametrize("num_cpus", [1, 2, 3, 4, 8, 16, 64])
@pytest.mark.parametrize("num_gpus", [0, 1, 8])
@pytest.mark.parametrize("actors", ["shared", "separate"])
@pytest.mark.parametrize("stages", [("fetch",), ("fetch", "classify"), ("fetch", "classify", "embed", "segment")])
def test_the_smallest_pools_leave_room_for_a_task(num_cpus, num_gpus, actors, stages):
    pools = allot(config(actors=actors, stages=stages, gpus_per_actor=0.25), num_cpus=num_cpus, num_gpus=num_gpus)
    assert sum(pool.min_actors * pool.num_cpus for pool in pools.values()) + TASK_CPUS <= num_cpus
    assert sum(pool.max_actors * pool.num_gpus for pool in pools.values()) <= num_gpus
    assert all(pool.num_threads >= 1 and pool.max_actors >= pool.min_actors for pool in pools.values())


def test_models_take_gpus_where_there_are_any():
    assert allot(config(), num_cpus=16, num_gpus=4)["models"].max_actors == 4
    assert allot(config(device="cpu"), num_cpus=16, num_gpus=4)["models"].num_gpus == 0


def test_what_is_only_downloaded_is_decoded_too():
    """Quality decides the status, whatever the stages."""
    assert set(allot(config(stages=("fetch",)), num_cpus=2, num_gpus=0)) == {"fetch", "write", "decode"}


@pytest.mark.parametrize(
    ("compute", "resources", "message"),
    [
        ({}, {"num_cpus": 0, "num_gpus": 8}, "at least 1 is needed"),
        ({"device": "cuda"}, {"num_cpus": 8, "num_gpus": 0}, "no GPU"),
        ({"actors": "separate"}, {"num_cpus": 8, "num_gpus": 1}, "gpus_per_actor"),
    ],
)
def test_what_cannot_fit_is_refused(compute, resources, message):
    with pytest.raises(PlanError, match=message):
        allot(config(**compute), **resources)


def test_a_dry_run_sums_up_what_is_asked_for():
    pools = allot(config(), num_cpus=16, num_gpus=4)
    *lines, total = describe(pools, num_cpus=16, num_gpus=4)
    assert len(lines) == len(pools)
    assert "of 16 logical CPUs" in total
    assert "1 to 4 of 4 GPUs" in total
