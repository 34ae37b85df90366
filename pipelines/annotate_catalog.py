"""Annotate every galaxy of a catalogue. ``--help`` says how; the code reads as the data flows."""

from __future__ import annotations

import platform
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # only the library is installed, not the programs

import psutil

from galaxray.catalog import Catalog, open_catalog
from galaxray.config import RunConfig
from galaxray.cutouts import check_cutouts
from galaxray.display import without_secrets
from galaxray.dryrun import dry_run
from galaxray.errors import GalaxrayError, RunError
from galaxray.images import View
from galaxray.ledger import Counting, Ledger
from galaxray.lock import RunLock
from galaxray.log import Log
from galaxray.modelset import ModelSet, describe_models, settle_precision
from galaxray.plan import find_run, plan_run
from galaxray.progress import RunProgress
from galaxray.report import write_report
from galaxray.runs import Listing, Run
from galaxray.schema import TRANSIENT_STATUSES
from galaxray.settings import AnnotateSettings, AnySettings, read_settings_of
from galaxray.storage import open_folder
from galaxray.storage_errors import storage_errors
from galaxray.summary import Tally, failed_fraction, summarize, write_summary
from pipelines.cluster import connect, expected_cluster, refuse_paths_in_job
from pipelines.resources import Pool, allot

EXIT_TOO_MANY_FAILED = 3


def annotate(settings: AnnotateSettings, log: Log) -> int:
    """Run the program; the exit status."""
    tally = Tally()
    config = settings.run_config()
    # What cannot be used is refused before anything is written.
    refuse_paths_in_job(config)
    open_folder(config.output).check()
    catalog = open_catalog_for(config)
    show_worker_logs = log.format == "text"  # nothing but JSON otherwise
    cluster = expected_cluster(config, show_worker_logs=show_worker_logs)
    pools = allot(config, **vars(cluster.most))
    config = settle_precision(config, "cuda" if any(pool.num_gpus for pool in pools.values()) else "cpu")
    models = describe_models(config)
    if settings.dry_run:
        run_there = find_run(config, catalog, models.record)
        print(dry_run(config, catalog, models, cluster.describe(pools), run_there))
        return 0
    with storage_errors(config.output), RunLock(open_folder(config.output)) as lock:
        run, summary = work_off(config, catalog, models, lock, log, tally, retry_failed=settings.retry_failed)
        return finish(run, config, summary, log)


def open_catalog_for(config: RunConfig) -> Catalog:
    """Open a run's catalogue, with the columns that its source of cutouts needs."""
    source = check_cutouts(config.cutouts)
    return open_catalog(
        config.catalog,
        config.columns,
        need_coordinates=not source.required_columns.isdisjoint({"ra_deg", "dec_deg"}),
        need_path="path" in source.required_columns,
        anchor_paths=config.cutouts.path_template is None,
    )


def work_off(
    config: RunConfig,
    catalog: Catalog,
    models: ModelSet,
    lock: RunLock,
    log: Log,
    tally: Tally,
    *,
    retry_failed: bool,
) -> tuple[Run, dict[str, Any]]:
    """Plan the run, or go on with it, until every unit is there; the run and its summary."""
    run = plan_run(config, catalog, models.record, versions=_versions(), on_rows=_tell_rows(config.catalog, log))
    work = find_work(run, log, retry_failed=retry_failed)
    with work.counting:
        if work.is_left():
            with connect(config.compute, show_worker_logs=log.format == "text") as cluster:
                stream_units(work, config, allot(config, **vars(cluster.most)), models.views, tally, lock)
    work.ledger.verify(_tell_footers(run, log))
    return run, summarize(work.ledger, tally)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is left of a run: units without a file, and units with rows to try again.

    To begin, it is enough to know which files are there; what they say is counted while the rest is being done.
    """

    run: Run
    before: Listing
    ledger: Ledger
    counting: Counting
    log: Log
    retry_failed: bool

    def is_left(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.before.missing or self.to_retry())

    def to_retry(self) -> list[int]:
        """Units finished before that have rows to try again; waits until they are counted."""
        if not self.retry_failed:
            return []
        self.counting.wait(_tell_footers(self.run, self.log))
        return sorted(set(self.ledger.retryable()) & set(self.before.units))

    def progress(self, units: Sequence[int], *, again: bool) -> RunProgress:
        """Progress of one pass over units."""
        if again:
            rows = self.ledger.transient_in(units)
            return RunProgress(rows, 0, lambda: self.ledger.by_status, what="tried again: ", log=self.log)
        done = self.run.rows_in(self.before.units)
        return RunProgress(self.run.num_rows, done, lambda: self.ledger.by_status, log=self.log)


def find_work(run: Run, log: Log, *, retry_failed: bool) -> Work:
    """Look into the run folder for what is done, and say so."""
    before, ledger = run.listing(), Ledger(run)
    log.run_id, done = run.run_id, run.rows_in(before.units)
    if done:
        log.say(
            "resume",
            f"going on with run {run.run_id}: {done:,} of {run.num_rows:,} rows are done",
            rows=run.num_rows,
            rows_done=done,
        )
    elif log.format == "json":  # to people the progress says enough
        log.say("start", f"run {run.run_id} of {run.num_rows:,} rows", rows=run.num_rows)
    counting = Counting(ledger, before)
    return Work(run=run, before=before, ledger=ledger, counting=counting, log=log, retry_failed=retry_failed)


def stream_units(
    work: Work, config: RunConfig, pools: dict[str, Pool], views: Sequence[View], tally: Tally, lock: RunLock
) -> None:
    """Send the units through the stages, and show and tally what comes out."""
    from pipelines.metrics import RunMetrics, host_of, is_watched  # loads ray
    from pipelines.stream import annotate as annotate_units  # loads ray.data

    metrics = RunMetrics(work.run.run_id, host_of(config.cutouts)) if is_watched() else None
    tally.workers = _workers(config, pools)
    tally.on_gpu = any(pool.num_gpus for pool in pools.values())
    psutil.cpu_percent()  # the next call gives the share since this one
    for again in (False, True):
        units = work.to_retry() if again else work.before.missing
        if not units:
            continue
        with work.progress(units, again=again) as progress:
            for report in annotate_units(work.run, config, pools, views, units, retry=again):
                work.ledger.add(report.written.record, report.written.size, before=report.written.before)
                tally.add(report.rows, report.seconds, report.started)
                tally.add_requests(**report.fetched)
                progress.update(report.rows)
                if metrics is not None:
                    metrics.count(report)
                    metrics.show(work.ledger, progress.seconds_left)
                work.counting.begin()
                work.counting.check()
                lock.check()
    tally.cpu_idle = round(1 - psutil.cpu_percent() / 100, 3)


def finish(run: Run, config: RunConfig, summary: dict[str, Any], log: Log) -> int:
    """Write summary and report, say what came out; the exit status."""
    write_summary(run, summary)
    report = write_report(run.output)
    counts = ", ".join(f"{name} {count:,}" for name, count in summary["by_status"].items())
    log.say(
        "finish",
        f"{summary['rows']:,} rows: {counts}",
        **{name: summary[name] for name in ("rows", "rows_done_now", "by_status", "wall_s")},
    )
    if summary["rows_per_s"]:
        rates = {name: summary[name] for name in ("rows_per_s", "startup_s")}
        text = f"{summary['rows_per_s']:,.1f} rows/s in the stream, after {summary['startup_s']:.1f} s to start"
        log.say("rate", text, **rates)
    print(f"table:   {run.output}/annotations/\nreport:  {report}")
    transient = sum(summary["by_status"].get(status, 0) for status in TRANSIENT_STATUSES)
    if transient:
        text = f"{transient:,} rows were throttled or not reached: run the same command with --retry-failed"
        log.say("retry", text, rows=transient)
    failed = failed_fraction(summary)
    if failed > config.max_failed_fraction:
        text = f"{failed:.1%} of the rows failed, more than --max-failed-fraction {config.max_failed_fraction:g}"
        log.say("failed", text, failed_fraction=failed)
        return EXIT_TOO_MANY_FAILED
    return 0


def _workers(config: RunConfig, pools: dict[str, Pool]) -> dict[str, int]:
    """Units that each stage can work on at once."""
    pool_of = {name: name if name in pools else "models" for name in ("decode", "write", *config.stages)}
    overlap = {"fetch", "decode", "write"}
    return {
        name: pools[pool].max_actors * (pools[pool].batches_in_flight if name in overlap else 1)
        for name, pool in pool_of.items()
        if pool in pools
    }


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in ("ray", "torch", "timm", "pyarrow")}


def _tell_rows(uri: str, log: Log) -> Callable[[int], None]:
    """Report on reading a catalogue that takes more than a few seconds."""
    is_time, name = _now_and_then(), without_secrets(uri)
    return lambda rows: log.say("catalogue", f"reading {name}: {rows:,} rows", rows=rows) if is_time() else None


def _tell_footers(run: Run, log: Log) -> Callable[[int, int], None]:
    """Report on counting what was done before, where that takes more than a few seconds."""
    is_time = _now_and_then()

    def tell(read: int, wanted: int) -> None:
        if is_time():
            text = f"counting what is in {run.output}: {read:,} of {wanted:,} files"
            log.say("count", text, files=wanted, files_read=read)

    return tell


def _now_and_then() -> Callable[[], bool]:
    """True once in five seconds, not before they are over."""
    last = time.monotonic()

    def is_time() -> bool:
        nonlocal last
        if time.monotonic() - last <= 5:
            return False
        last = time.monotonic()
        return True

    return is_time


def run_program(model: type[AnySettings], program: Callable[[AnySettings, Log], int], name: str) -> int:
    """Read the settings and run a program; what went wrong becomes one line and an exit status."""
    for stop in (signal.SIGINT, signal.SIGTERM):  # also where a parent process ignores SIGINT, as shells do for jobs
        signal.signal(stop, signal.default_int_handler)
    # Wrong flags are told in the form that they ask for.
    log = Log("json" if re.search(r"--log[= ]json\b", " ".join(sys.argv)) else "text")
    try:
        settings = read_settings_of(model, program=name)
        log = Log(settings.log)
        return program(settings, log)
    except GalaxrayError as error:
        log.say("error", str(error), level="error", exit_status=error.exit_status)
        return error.exit_status
    except KeyboardInterrupt:
        log.say("interrupted", "interrupted: finished units are kept; the same command goes on where this one was")
        return RunError.exit_status


def main() -> int:
    """Turn what went wrong into one line and an exit status."""
    return run_program(AnnotateSettings, annotate, Path(__file__).name)


if __name__ == "__main__":
    sys.exit(main())
