"""Trains in this process, or in several that Ray Train (V2) starts; the loop is the same."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field

from galaxray.config import ComputeConfig
from galaxray.errors import ConfigError, GalaxrayError, RunError
from galaxray.memory import keep_freed_memory
from galaxray.training.task import Report
from galaxray.training.training_folder import MODEL, TrainingSettings
from galaxray.training.workers import ALONE, Workers

__all__ = ["PROGRESS", "WorkerSettings", "explained", "told", "train_on_workers"]

PROGRESS = "progress.jsonl"
"""What the first worker tells, in the output folder, where the program reads it: the two may be on different nodes."""

Settings = TypeVar("Settings", bound=TrainingSettings)


class WorkerSettings(BaseModel):
    """How many train together."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    num_workers: Annotated[int, Field(ge=0)] = 0
    """Processes of Ray Train that share each batch out, a GPU each where there are any; 0 trains in this one, without
    Ray."""
    worker_cpus: Annotated[float, Field(gt=0)] | None = None
    """Logical CPUs of each; what a local Ray has, shared evenly, if left out."""
    max_failures: Annotated[int, Field(ge=-1)] = 3
    """So many times workers may die and be started again; -1: any number."""
    threads: Annotated[int, Field(gt=0)] | None = None
    """Threads of torch in each process on a CPU; all cores, shared evenly, if left out."""


def train_on_workers(
    train: Callable[[Settings, Callable[[str, Report], None], Workers], Path],
    settings: Settings,
    workers: WorkerSettings,
    say: Callable[[str, Report], None],
) -> Path:
    """Train a model.

    Parameters
    ----------
    train : callable
        A function of a module that can be imported; it finds its checkpoint by itself.
    settings : TrainingSettings
        What it is called with.
    workers : WorkerSettings
    say : callable
        Shows figures, on the first worker.

    Returns
    -------
    Path
        The model's file.

    Raises
    ------
    GalaxrayError
        As ``train`` raises it.
    RunError
        If workers died more often than is allowed.
    """
    cores = os.cpu_count() or 1
    keep_freed_memory()
    if workers.num_workers == 0:
        torch.set_num_threads(workers.threads or cores)
        return train(settings, say, ALONE)
    from pipelines.cluster import connect

    threads = workers.threads or max(1, cores // workers.num_workers)
    with connect(ComputeConfig(num_cpus=max(cores, workers.num_workers + 1))) as cluster:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
        from ray.train.v2.api.exceptions import TrainingFailedError

        use_gpu = settings.device != "cpu" and cluster.most.num_gpus > 0
        if settings.device == "cuda" and cluster.most.num_gpus < workers.num_workers:
            raise ConfigError(f"--num-workers {workers.num_workers}: the cluster has {cluster.most.num_gpus:g} GPUs")
        cpus = workers.worker_cpus or max(0.1, round((cluster.most.num_cpus - 1) / workers.num_workers, 2))
        trainer = TorchTrainer(
            _in_worker,
            train_loop_config={"train": train, "settings": settings, "threads": threads},
            scaling_config=ScalingConfig(
                num_workers=workers.num_workers, use_gpu=use_gpu, resources_per_worker={"CPU": cpus}
            ),
            run_config=RunConfig(
                name="ray_train",
                storage_path=str(settings.output.absolute()),
                failure_config=FailureConfig(max_failures=workers.max_failures),
            ),
        )
        try:
            with told(settings.output / PROGRESS, say):
                trainer.fit()
        except TrainingFailedError as error:
            raise explained(error) from error
    return settings.output / MODEL


@contextmanager
def told(path: Path, say: Callable[[str, Report], None], pause_s: float = 0.5) -> Iterator[None]:
    """Say what is appended to a file while the block goes on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    is_over = threading.Event()

    def follow() -> None:
        with path.open() as progress:
            progress.seek(0, os.SEEK_END)
            left = ""
            while True:
                was_over = is_over.wait(pause_s)
                *lines, left = (left + progress.read()).split("\n")
                for line in lines:
                    say(*json.loads(line))
                if was_over:
                    return

    thread = threading.Thread(target=follow, name="galaxray-progress")
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _in_worker(config: dict[str, Any]) -> None:
    """One worker: the group of processes is there already."""
    import ray.train

    torch.set_num_threads(config["threads"])
    keep_freed_memory()
    workers = Workers.of_process_group()

    def report(kind: str, figures: Report) -> None:
        if workers.is_first:
            with (config["settings"].output / PROGRESS).open("a") as progress:
                progress.write(json.dumps([kind, figures]) + "\n")
        if kind == "epoch":  # every worker must report as often as the others
            ray.train.report(figures)

    config["train"](config["settings"], report, workers)


def explained(error: Exception) -> GalaxrayError:
    """What a worker raised, without the layers around it."""
    failures = getattr(error, "worker_failures", {}) or {}
    for failure in failures.values():
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, GalaxrayError):
                return cause
            cause = getattr(cause, "cause", None) or cause.__cause__
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return RunError(f"the workers failed: {text}. What is saved is kept: the same command goes on")
