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


@pytest.mark.parametrize("node_cpus", [1, 2, 4, 16])
@pytest.mark.parametrize("num_gpus", [0, 4])
def test_an_actor_of_every_pool_fits_on_the_smallest_node(node_cpus, num_gpus):
    """The first node that comes can begin, and no actor waits for one that is larger than any."""
    pools = allot(config(), num_cpus=4 * node_cpus, num_gpus=num_gpus, num_nodes=4, node_cpus=node_cpus)
    assert max(pool.num_cpus for pool in pools.values()) <= node_cpus
    assert sum(pool.max_actors * pool.num_cpus for pool in pools.values()) <= 4 * node_cpus
    if not num_gpus:
        assert TASK_CPUS + sum(pool.num_cpus for pool in pools.values()) <= node_cpus
        assert pools["models"].max_actors >= 4


def test_decoders_leave_the_gpus_their_models():
    pools = allot(config(), num_cpus=16, num_gpus=4)
    assert TASK_CPUS + sum(pool.max_actors * pool.num_cpus for pool in pools.values()) <= 16


@pytest.mark.parametrize(
    ("cutouts", "num_nodes", "fetchers"),
    [
        ({"requests_per_s": 10}, 50, 1),  # one keeps a polite rate, and has fewer units in flight to lose
        ({"requests_per_s": 350}, 50, 4),
        ({"requests_per_s": None}, 8, 8),
        ({"requests_per_s": None, "max_in_flight": 4}, 8, 4),
        ({"source": "files"}, 8, 8),
    ],
)
def test_fetchers_by_nodes_and_rate(cutouts, num_nodes, fetchers):
    run = RunConfig(catalog="a.csv", output="out", stages=("fetch",), cutouts=cutouts)
    assert allot(run, num_cpus=100, num_gpus=0, num_nodes=num_nodes)["fetch"].max_actors == fetchers


def test_fetchers_can_be_set():
    pool = allot(config(fetchers=3), num_cpus=8, num_gpus=0)["fetch"]
    assert (pool.min_actors, pool.max_actors) == (3, 3)
    assert allot(config(fetchers=8), num_cpus=8, num_gpus=0, num_nodes=8, node_cpus=1)
    with pytest.raises(PlanError, match="leaves no CPU"):
        allot(config(fetchers=4), num_cpus=1, num_gpus=0)
    with pytest.raises(PlanError, match="max_in_flight 16"):
        allot(config(fetchers=17), num_cpus=8, num_gpus=0)
