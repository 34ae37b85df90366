"""The stream of work units through Ray Data: fetch -> decode -> models -> write.

To Ray Data one work unit is one row: its galaxies travel packed in the column ``batch``, so that no stage can split a
unit, mix two, or lose a part of one. The stages themselves are in ``galaxray.stages`` and know nothing of this.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.data.exceptions import ExecutionTimeoutError, SystemException
from ray.exceptions import ActorDiedError, RayError

from galaxray.batches import Batch, num_rows, pack, unpack
from galaxray.config import RunConfig
from galaxray.cutouts import FetchStats, GovernedLimiter, longest_fetch_s, make_governor
from galaxray.errors import GalaxrayError, RunError
from galaxray.images import View
from galaxray.log import name_run_in_logs
from galaxray.modelset import model_stages
from galaxray.runs import Run
from galaxray.schema import to_table
from galaxray.stages import Decode, Fetch, Stage
from galaxray.storage_errors import storage_errors
from pipelines.flight import UNITS_PER_SLOT, bound_flight
from pipelines.metrics import WatchedGovernor, in_work, is_watched, new_requests
from pipelines.politeness import GovernorHandle, shared_limiter, start_governor
from pipelines.resources import TASK_CPUS, Pool
from pipelines.unit_report import UnitReport

__all__ = ["annotate", "annotated"]

THUMBNAILS = 400
"""Pictures that are kept for the report."""

ACTOR_STARTS = 4
"""Times that an actor of a stage is started in vain, one after the other, before the run ends: a disk or a node may
fail it just then. Ray itself starts only those again whose process was lost."""

Row = dict[str, np.ndarray]
"""A work unit as Ray Data hands it over: ``unit``, ``retry`` and ``batch``, arrays of length one."""

Build = Callable[[], dict[str, Stage]]
"""Makes an actor's stages where they run; picklable."""


def annotate(
    run: Run, config: RunConfig, pools: dict[str, Pool], views: Sequence[View], units: Sequence[int], *, retry: bool
) -> Iterator[UnitReport]:
    """Send units through the stages, and yield a report of each when its file is written.

    Parameters
    ----------
    run : Run
    config : RunConfig
    pools : dict of str to Pool
        From :func:`pipelines.resources.allot`.
    views : sequence of View
        What the models look at; none where images are only fetched and checked.
    units : sequence of int
        Units to do, in order.
    retry : bool
        Whether only their rows with a transient status are done again.

    Raises
    ------
    RunError
        If the stream stalls, or a worker cannot read or write the run folder. What is written stays.
    """
    longest_s = longest_fetch_s(config.cutouts, run.rows_per_unit, pools["fetch"].max_actors)
    stall_timeout_s = config.compute.stall_timeout_s or max(600.0, longest_s)
    dataset = annotated(run, config, pools, views, units, retry=retry, stall_timeout_s=stall_timeout_s)
    dataset = _through(dataset, Writing, pools["write"], run=run)
    try:
        for batch in dataset.iter_batches(batch_size=1, prefetch_batches=0, batch_format="numpy"):
            yield UnitReport.from_json(batch["report"][0])
    except ExecutionTimeoutError as error:
        raise RunError(_stalled(str(error), stall_timeout_s)) from error
    except RayError as error:
        raise RunError(_explain(error)) from error


def annotated(
    run: Run,
    config: RunConfig,
    pools: dict[str, Pool],
    views: Sequence[View],
    units: Sequence[int],
    *,
    retry: bool,
    stall_timeout_s: float,
) -> ray.data.Dataset:
    """The stream from the list of units to finished rows, not yet written; see :func:`annotate`."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what ends a run comes as an exception
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = 1  # a block is closed after each row, and a row is a unit
    context.execution_no_progress_timeout_s = math.ceil(stall_timeout_s)
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    context.max_consecutive_actor_init_deaths = ACTOR_STARTS - 1
    bound_flight(context)

    # Several fetchers need one that grants them requests. A single one has that in its own process.
    watched_as = run.run_id if is_watched() else None
    governor = start_governor(config.cutouts, watched_as) if pools["fetch"].max_actors > 1 else None
    fetch = partial(_build_fetch, config, governor, watched_as)
    dataset = ray.data.read_datasource(
        _Units(units, retry), override_num_blocks=min(len(units), 16), num_cpus=TASK_CPUS, concurrency=1
    )
    dataset = _through(dataset, Fetching, pools["fetch"], run=run, build=fetch, watched_as=watched_as)
    every = max(1, run.num_rows // THUMBNAILS)
    decode = partial(_build_decode, config, list(views), every, pools["decode"].num_threads)
    dataset = _through(dataset, Decoding, pools["decode"], build=decode)  # without models too: quality decides status
    names = [name for name in config.stages if name != "fetch"]
    for group in [names] if "models" in pools else [[name] for name in names]:
        pool = pools.get("models") or pools[group[0]]
        # "auto" takes the GPU that torch finds where the actor runs: none of Ray's logical GPUs need be there.
        device = config.compute.device if pool.num_gpus else "cpu"
        build = partial(model_stages, config, group, device, pool.num_threads)
        dataset = _through(dataset, Models, pool, build=build)
    return dataset


def _stalled(message: str, timeout_s: float) -> str:
    busy = ", ".join(dict.fromkeys(re.findall(r"MapBatches\((\w+)\): [1-9]", message))).lower()
    return (
        f"no progress for {timeout_s:g} s (--compute.stall_timeout_s); at work: {busy or 'nothing, no CPU was free'}. "
        "What is written is kept: the same command goes on from there"
    )


def _explain(error: BaseException) -> str:
    """The first line of what went wrong in a worker, without the layers that Ray wraps around it."""
    # What Ray raises is an instance of what it wraps, too: its layers are known by being its own.
    while isinstance(error, RayError) or not isinstance(error, GalaxrayError):
        cause = getattr(error, "cause", None) or error.__cause__
        if cause is None or isinstance(cause, SystemException):  # a mark of Ray Data's, which says nothing
            break
        error = cause
    if isinstance(error, GalaxrayError):  # it says what is to be said
        return str(error)
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, ActorDiedError) and "creation task" in lines[0]:  # the last line of its traceback says why
        return f"a worker could not be started: {lines[-1].strip()}. What is written is kept: the same command goes on"
    text = lines[0].rstrip(".")
    return f"a worker failed with {type(error).__name__}: {text}. What is written is kept: the same command goes on"


def _through(dataset: ray.data.Dataset, actor: type, pool: Pool, **arguments: Any) -> ray.data.Dataset:
    """Add a pool of actors to the stream."""
    return dataset.map_batches(
        actor,
        fn_constructor_kwargs=arguments,
        batch_size=1,
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus or None,
        udf_modifying_row_count=False,
        compute=ray.data.ActorPoolStrategy(
            min_size=pool.min_actors,
            max_size=pool.max_actors,
            max_tasks_in_flight_per_actor=UNITS_PER_SLOT * pool.batches_in_flight,
            max_concurrent_calls_per_actor=pool.batches_in_flight,
            # Stages that wait (fetch, write) overlap their units; a model sees one at a time.
            enable_true_multi_threading=actor is not Models,
        ),
    )


class _Units(Datasource):
    """The list of units to do, one block each."""

    def __init__(self, units: Sequence[int], retry: bool) -> None:
        self._units = units
        self._retry = retry

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        return [
            ReadTask(
                partial(_list_units, [int(unit) for unit in units], self._retry),
                BlockMetadata(num_rows=len(units), size_bytes=None, input_files=None, exec_stats=None),
            )
            for units in np.array_split(np.asarray(self._units), parallelism)
            if len(units)
        ]


def _list_units(units: list[int], retry: bool) -> Iterator[pa.Table]:
    for unit in units:
        yield pa.table({"unit": [unit], "retry": [retry]})


class Fetching:
    """Reads units of the checked catalogue and fetches their images. Thread-safe."""

    def __init__(self, run: Run, build: Callable[[], Fetch], watched_as: str | None) -> None:
        name_run_in_logs(run.run_id)
        self.run = run
        self.fetch = build()
        self.watched_as = watched_as
        self._lock = threading.Lock()
        self._told = FetchStats()

    def __call__(self, row: Row) -> Row:
        unit, retry = int(row["unit"][0]), bool(row["retry"][0])
        started = time.time()
        notes = {"unit": unit, "retry": retry, "started": started, "seconds": {}, "watched_as": self.watched_as}
        with storage_errors(self.run.output):
            batch = self.run.read_unit(unit, retry=retry)
        batch, notes = _apply({"fetch": self.fetch}, batch, notes)
        return _packed(batch, {**notes, "fetched": self._fetched()})

    def _fetched(self) -> dict[str, Any]:
        """What was fetched since this was last asked: each request is told once, if not always with its own unit."""
        with self._lock:
            before, self._told = self._told, self.fetch.fetcher.stats()
            return new_requests(self._told, before)


class _Transform:
    """Runs stages on units."""

    def __init__(self, build: Build) -> None:
        self.stages = build()

    def __call__(self, row: Row) -> Row:
        return _packed(*_apply(self.stages, *unpack(row["batch"][0])))


class Decoding(_Transform):
    """Decodes the images of units."""


class Models(_Transform):
    """Runs models on units."""

    def __call__(self, row: Row) -> Row:
        # The stream's time counts from here: while models load, the first units are fetched and wait.
        batch, notes = unpack(row["batch"][0])
        return _packed(*_apply(self.stages, batch, {**notes, "started": time.time()}))


class Writing:
    """Writes finished units. Thread-safe."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, row: Row) -> Row:
        batch, notes = unpack(row["batch"][0])
        began = time.perf_counter()
        thumbnail = batch.pop("thumbnail", None)
        if thumbnail is not None and not notes["retry"]:
            kept = np.array([picture is not None for picture in thumbnail])
            if kept.any():
                pictures = {"row_index": batch["row_index"][kept], "jpeg": pa.array(thumbnail[kept], pa.binary())}
                with storage_errors(self.run.output):
                    self.run.commit_thumbnails(notes["unit"], pa.table(pictures))
        with storage_errors(self.run.output):
            written = self.run.commit(notes["unit"], to_table(batch), retry=notes["retry"])
        report = UnitReport(
            written=written,
            rows=num_rows(batch),
            seconds={**notes["seconds"], "write": time.perf_counter() - began},
            started=notes["started"],
            fetched=notes["fetched"],
        )
        return {"report": np.array([report.to_json()], dtype=object)}


def _apply(stages: dict[str, Stage], batch: Batch, notes: dict[str, Any]) -> tuple[Batch, dict[str, Any]]:
    seconds = dict(notes["seconds"])
    for name, stage in stages.items():
        began = time.perf_counter()
        with in_work(notes["watched_as"], name):
            batch = stage(batch)
        seconds[name] = time.perf_counter() - began
    return batch, {**notes, "seconds": seconds}


def _packed(batch: Batch, notes: dict[str, Any]) -> Row:
    packed = np.empty(1, dtype=object)
    packed[0] = pack(batch, notes)
    return {"batch": packed}


def _build_fetch(config: RunConfig, governor: GovernorHandle | None, watched_as: str | None) -> Fetch:
    limiter = None
    if governor is not None:
        limiter = shared_limiter(governor)
    elif watched_as is not None:
        own = WatchedGovernor(make_governor(config.cutouts), config.cutouts, watched_as)
        limiter = GovernedLimiter(lambda report: own.sync(time.monotonic(), report))
    return Fetch(config.cutouts, limiter=limiter)


def _build_decode(config: RunConfig, views: list[View], thumbnail_every: int, num_threads: int) -> dict[str, Stage]:
    return {
        "decode": Decode(
            views,
            max_pixels=config.cutouts.max_pixels,
            thumbnail_every=thumbnail_every,
            keep=config.cutouts.keep,
            num_threads=num_threads,
        )
    }
