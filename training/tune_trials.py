"""Several trainings at a time, as trials of Ray Tune; each goes on from the checkpoint in its own folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch

from galaxray.config import ComputeConfig
from galaxray.errors import ConfigError
from galaxray.memory import keep_freed_memory
from galaxray.training.latent_search import folder_of
from galaxray.training.task import Report
from galaxray.training.train_vae import VAESettings, train_vae
from training.ray_workers import PROGRESS, WorkerSettings, explained, told

__all__ = ["train_sizes"]


def train_sizes(
    settings: VAESettings,
    latent_dims: Sequence[int],
    at_once: int,
    workers: WorkerSettings,
    say: Callable[[str, Report], None],
) -> None:
    """Train autoencoders of several latent sizes, each in its folder.

    Parameters
    ----------
    settings : VAESettings
        Of all of them; ``output`` is the folder of the search.
    latent_dims : sequence of int
    at_once : int
        Trials that go on at the same time, a GPU each where there are any.
    workers : WorkerSettings
        Threads, logical CPUs and failures of each trial.
    say : callable
        Shows figures; ``latent_dim`` among them tells of which training.

    Raises
    ------
    GalaxrayError
        As a trial raises it.
    RunError
        If a trial died more often than is allowed.
    """
    from pipelines.cluster import connect

    with connect(ComputeConfig(num_cpus=max(at_once + 1, (torch.get_num_threads() or 1)))) as cluster:
        from ray import tune

        use_gpu = settings.device != "cpu" and cluster.most.num_gpus > 0
        if settings.device == "cuda" and not use_gpu:
            raise ConfigError("--device cuda: the cluster has no GPU")
        cpus = workers.worker_cpus or max(0.1, round((cluster.most.num_cpus - 1) / at_once, 2))
        threads = workers.threads or max(1, int(cpus))
        trial = tune.with_parameters(_trial, settings=settings, threads=threads)
        tuner = tune.Tuner(
            tune.with_resources(trial, {"cpu": cpus, "gpu": int(use_gpu)}),
            param_space={"latent_dim": tune.grid_search(list(latent_dims))},
            tune_config=tune.TuneConfig(max_concurrent_trials=at_once),
            run_config=tune.RunConfig(
                name="ray_tune",
                storage_path=str(settings.output.absolute()),
                failure_config=tune.FailureConfig(max_failures=workers.max_failures),
                verbose=0,
            ),
        )
        with told(settings.output / PROGRESS, say):
            results = tuner.fit()
    for error in results.errors:
        raise explained(error)


def _trial(config: dict[str, Any], settings: VAESettings, threads: int) -> None:
    """One latent size."""
    from ray import tune

    torch.set_num_threads(threads)
    keep_freed_memory()
    size = config["latent_dim"]

    def report(kind: str, figures: Report) -> None:
        with (settings.output / PROGRESS).open("a") as progress:
            progress.write(json.dumps([kind, {"latent_dim": size, **figures}]) + "\n")
        if kind == "epoch":
            tune.report(figures)

    train_vae(settings.model_copy(update={"latent_dim": size, "output": folder_of(settings.output, size)}), report)
