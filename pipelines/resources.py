"""Who gets which share of a cluster, decided before anything starts.

Ray Data hangs in silence when actors take every CPU and no task can run, so the logical CPUs of all stages are added
up first: the smallest pools, and one task beside them, must fit. Logical CPUs only limit how many actors there are;
what an actor really uses is set by its threads.

Pools begin with one actor, and may become as large as the cluster at its largest lets them: the actors that wait for a
place make Ray's autoscaler add nodes, and Ray Data adds actors where nodes come.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from galaxray.config import RunConfig
from galaxray.errors import PlanError

__all__ = ["Pool", "Resources", "allot", "describe"]

CORES_PER_CPU_MODEL = 4
"""Cores that one model actor uses on a cluster without GPUs; more threads in one actor scale badly."""

TASK_CPUS = 0.1
"""Logical CPUs of the task that lists work units; it only hands out numbers."""

REQUESTS_PER_FETCHER = 100.0
"""Requests per second for which another fetcher is worth its units in flight; one can do twenty times as many."""

SIZES = ("min_actors", "max_actors")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Logical resources of a cluster.

    Attributes
    ----------
    num_cpus, num_gpus : float
    num_nodes : int
        Nodes that have any of them.
    node_cpus : float or None
        CPUs of the smallest node that has any; None if that is the only node, or not known.
    """

    num_cpus: float
    num_gpus: float
    num_nodes: int = 1
    node_cpus: float | None = None


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Actors of one stage.

    Attributes
    ----------
    min_actors, max_actors : int
    num_cpus, num_gpus : float
        Of each actor.
    num_threads : int
        Threads in each actor.
    batches_in_flight : int
        Units that each actor works on at once.
    """

    min_actors: int = 1
    max_actors: int = 1
    num_cpus: float
    num_gpus: float = 0.0
    num_threads: int = 1
    batches_in_flight: int = 1


def allot(
    config: RunConfig, *, num_cpus: float, num_gpus: float, num_nodes: int = 1, node_cpus: float | None = None
) -> dict[str, Pool]:
    """Pools by stage: ``fetch``, ``decode``, ``write``, and ``models`` or one per model.

    Parameters
    ----------
    config : RunConfig
    num_cpus, num_gpus, num_nodes, node_cpus
        `Resources` of the cluster at its largest.

    Raises
    ------
    PlanError
        If the stages cannot fit.
    """
    if num_cpus < 1:
        raise PlanError(
            f"the cluster has {num_cpus:g} logical CPUs: at least 1 is needed; where nodes come on demand, say how "
            "many CPUs and GPUs there may be (--compute.max_cpus, --compute.max_gpus)"
        )
    models = [stage for stage in config.stages if stage != "fetch"]
    on_gpu = bool(models) and config.compute.device != "cpu" and num_gpus > 0
    if config.compute.device == "cuda" and not on_gpu:
        raise PlanError("--compute.device cuda: the cluster has no GPU; leave the flag out, or add GPU nodes")
    groups = ["models"] if config.compute.actors == "shared" and models else models
    # Fetching and writing wait for the network and the disk: a sliver of a CPU each.
    pools = {
        "fetch": Pool(
            min_actors=config.compute.fetchers or 1,  # who asks for some number has them from the beginning
            max_actors=_num_fetchers(config, num_nodes),
            num_cpus=0.1,
            batches_in_flight=4,
        ),
        "write": Pool(num_cpus=0.1, batches_in_flight=2),
    }
    fetchers_per_node = math.ceil(pools["fetch"].min_actors / max(1, num_nodes))
    slivers = fetchers_per_node * pools["fetch"].num_cpus + pools["write"].num_cpus + TASK_CPUS
    if slivers > 0.5 * min(num_cpus, node_cpus or num_cpus):
        raise PlanError(f"--compute.fetchers {config.compute.fetchers} leaves no CPU to the other stages: lower it")
    if on_gpu:
        return pools | _beside_gpus(config, groups, num_cpus - slivers, num_gpus)
    return pools | _on_cpus(groups, num_cpus, min(num_cpus, node_cpus or num_cpus), slivers)


def _num_fetchers(config: RunConfig, num_nodes: int) -> int:
    """One per node, unless a polite rate is too low to keep them busy."""
    rate, most = config.cutouts.requests_per_s, config.cutouts.max_in_flight
    if config.compute.fetchers is None:
        if config.cutouts.source != "files" and rate is not None:
            most = min(most, math.ceil(rate / REQUESTS_PER_FETCHER))
        return max(1, min(num_nodes, most))
    if config.compute.fetchers > most:
        raise PlanError(
            f"--compute.fetchers {config.compute.fetchers} is more than --cutouts.max_in_flight {most}: "
            "each fetcher needs one request"
        )
    return config.compute.fetchers


def _beside_gpus(config: RunConfig, groups: Sequence[str], cpus: float, gpus: float) -> dict[str, Pool]:
    """Models on GPUs, and decoding, which is what bounds them, on every core that nothing else needs."""
    share, gpus = config.compute.gpus_per_actor, gpus / len(groups)
    if share > gpus:
        raise PlanError(
            f"each model actor asks for {share:g} GPU and has {gpus:g}: lower --compute.gpus_per_actor, "
            "or let the models share one actor (--compute.actors shared)"
        )
    decode = Pool(num_cpus=min(1.0, cpus / 2))
    num_models = int(gpus / share)
    model = Pool(
        max_actors=num_models,
        num_cpus=min(1.0, math.floor(1e4 * (cpus - decode.num_cpus) / len(groups) / num_models) / 1e4),  # Ray's grain
        num_gpus=share,
        batches_in_flight=2,
    )
    left = cpus - len(groups) * num_models * model.num_cpus
    return {"decode": replace(decode, max_actors=max(1, int(left / decode.num_cpus)))} | dict.fromkeys(groups, model)


def _on_cpus(groups: Sequence[str], num_cpus: float, node_cpus: float, slivers: float) -> dict[str, Pool]:
    """Models on CPUs, sized so that the smallest node can hold an actor of every pool."""
    # Beside models on the same cores, decoding needs a tenth of their time.
    num_decoders = max(1, int(num_cpus) // (2 * CORES_PER_CPU_MODEL))
    decode = Pool(max_actors=num_decoders, num_cpus=0.2, num_threads=min(2, int(node_cpus)), batches_in_flight=2)
    per_node = max(1, int(node_cpus) // CORES_PER_CPU_MODEL)
    cpus = (node_cpus - slivers - decode.num_cpus) / max(1, len(groups))
    model = Pool(
        max_actors=max(1, int(num_cpus / node_cpus * per_node)),
        num_cpus=round(0.9 * cpus / per_node, 3),
        num_threads=max(1, int(node_cpus) // per_node),
        batches_in_flight=2,
    )
    return {"decode": decode} | dict.fromkeys(groups, model)


def describe(pools: dict[str, Pool], *, num_cpus: float, num_gpus: float) -> list[str]:
    """A line per stage for ``--dry-run``, and the sums beside what the cluster has."""
    lines = [
        f"{name:<9} {pool.min_actors}-{pool.max_actors} actors, each {pool.num_cpus:g} CPU"
        + (f", {pool.num_gpus:g} GPU" if pool.num_gpus else "")
        + f", {pool.num_threads} threads, {pool.batches_in_flight} units in flight"
        for name, pool in pools.items()
    ]
    cpus = [TASK_CPUS + sum(getattr(pool, size) * pool.num_cpus for pool in pools.values()) for size in SIZES]
    gpus = [sum(getattr(pool, size) * pool.num_gpus for pool in pools.values()) for size in SIZES]
    return [
        *lines,
        f"sum       {cpus[0]:.3g} to {cpus[1]:.3g} of {num_cpus:g} logical CPUs"
        f", {gpus[0]:.3g} to {gpus[1]:.3g} of {num_gpus:g} GPUs",
    ]
