"""Who gets which share of a cluster, decided before anything starts.

Ray Data hangs in silence when actors take every CPU and no task can run, so the logical CPUs of all stages are added
up first: the smallest pools, and one task beside them, must fit. Logical CPUs only limit how many actors there are;
what an actor really uses is set by its threads.
"""

from __future__ import annotations

from dataclasses import dataclass

from galaxray.config import RunConfig
from galaxray.errors import PlanError

__all__ = ["Pool", "allot", "describe"]

CORES_PER_CPU_MODEL = 4
"""Cores that one model actor uses on a cluster without GPUs; more threads in one actor scale badly."""

TASK_CPUS = 0.1
"""Logical CPUs of the task that lists work units; it only hands out numbers."""

SIZES = ("min_actors", "max_actors")


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


def allot(config: RunConfig, *, num_cpus: float, num_gpus: float) -> dict[str, Pool]:
    """Pools by stage: ``fetch``, ``decode``, ``write``, and ``models`` or one per model.

    Parameters
    ----------
    config : RunConfig
    num_cpus, num_gpus : float
        Logical resources of the cluster.

    Raises
    ------
    PlanError
        If the stages cannot fit.
    """
    if num_cpus < 1:
        raise PlanError(f"the cluster has {num_cpus:g} logical CPUs: at least 1 is needed")
    models = [stage for stage in config.stages if stage != "fetch"]
    on_gpu = bool(models) and config.compute.device != "cpu" and num_gpus > 0
    if config.compute.device == "cuda" and not on_gpu:
        raise PlanError("--compute.device cuda: the cluster has no GPU; leave the flag out, or add GPU nodes")
    groups = ["models"] if config.compute.actors == "shared" and models else models
    # Fetching and writing wait for the network and the disk: a sliver of a CPU each.
    pools = {
        "fetch": Pool(num_cpus=0.1, batches_in_flight=4),
        "write": Pool(num_cpus=0.1, batches_in_flight=2),
    }
    left = num_cpus - sum(pool.num_cpus for pool in pools.values()) - TASK_CPUS
    pools["decode"] = _decoders(num_cpus, left, on_gpu)
    left -= pools["decode"].num_cpus
    for group in groups:
        pools[group] = _models(config, num_cpus, left / len(groups), num_gpus / len(groups), on_gpu)
    return pools


def _decoders(num_cpus: float, left: float, on_gpu: bool) -> Pool:
    if on_gpu:  # decoding is what bounds a GPU cluster: every core that nothing else needs
        return Pool(max_actors=max(1, int(left) - 1), num_cpus=min(1.0, left / 2))
    # Beside models on the same cores, decoding needs a tenth of their time.
    num_actors = max(1, int(num_cpus) // (2 * CORES_PER_CPU_MODEL))
    return Pool(max_actors=num_actors, num_cpus=0.2, num_threads=min(2, int(num_cpus)), batches_in_flight=2)


def _models(config: RunConfig, num_cpus: float, cpus: float, gpus: float, on_gpu: bool) -> Pool:
    if on_gpu:
        share = config.compute.gpus_per_actor
        if share > gpus:
            raise PlanError(
                f"each model actor asks for {share:g} GPU and has {gpus:g}: lower --compute.gpus_per_actor, "
                "or let the models share one actor (--compute.actors shared)"
            )
        return Pool(max_actors=int(gpus / share), num_cpus=min(1.0, cpus / 2), num_gpus=share, batches_in_flight=2)
    num_actors = max(1, int(num_cpus) // CORES_PER_CPU_MODEL)
    return Pool(
        max_actors=num_actors,
        num_cpus=round(0.9 * cpus / num_actors, 3),
        num_threads=max(1, int(num_cpus) // num_actors),
        batches_in_flight=2,
    )


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
