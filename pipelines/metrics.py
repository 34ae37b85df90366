"""What Prometheus sees of a run, under Ray's own endpoints (docs/watching.md); on a cluster only.

Counts come with the units, from the program, so that they are those of the table; what changes faster, the limiter and
the units in work, is told by the processes where it is. Each metric has the tag ``run_id``. Ray puts ``ray_`` before
the names, and ``_total`` behind those of counters.
"""

from __future__ import annotations

import os
import threading
from collections import Counter as Counts
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from ray.util.metrics import Counter, Gauge, Histogram

from galaxray.config import CutoutConfig
from galaxray.cutouts import FetchStats, Governor, Grant, Report, Snapshot
from galaxray.cutouts.sources import make_source
from galaxray.ledger import Ledger
from galaxray.schema import Status
from pipelines.unit_report import UnitReport

__all__ = ["RunMetrics", "WatchedGovernor", "host_of", "in_work", "is_watched", "new_requests"]

STAGE_SECONDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]
"""Bounds of the histogram of the time that a stage takes for a unit."""

SHOW_S = 2.0
"""Time between two looks at the limiter; Ray itself exports every ten seconds."""


def is_watched() -> bool:
    """Whether there is a cluster that somebody may watch; the Ray that a program starts for itself cannot be."""
    return bool(os.environ.get("RAY_ADDRESS"))


def host_of(config: CutoutConfig) -> str:
    """Host of the service that a run asks, or ``files``."""
    base_url = make_source(config).base_url
    return "files" if base_url is None else urlsplit(base_url).netloc


class RunMetrics:
    """Counts of a run, told by its program.

    Parameters
    ----------
    run_id : str
    host : str
        The service.
    """

    def __init__(self, run_id: str, host: str) -> None:
        self._tags = {"run_id": run_id}
        self._host = {"run_id": run_id, "host": host}
        run, service = ("run_id",), ("run_id", "host")
        self._catalog_rows = Gauge("galaxray_catalog_rows", "Rows of the catalogue", run)
        self._rows = Gauge("galaxray_rows", "Finished rows by status", (*run, "status"))
        self._seconds_left = Gauge("galaxray_seconds_left", "Time to go at the present rate", run)
        self._rows_done = Counter("galaxray_rows_done", "Rows done by this program", run)
        self._units = Counter("galaxray_units_written", "Work units written by this program", run)
        self._seconds = Histogram(
            "galaxray_stage_seconds", "Time of a stage for a unit", STAGE_SECONDS, (*run, "stage")
        )
        self._requests = Counter("galaxray_requests", "Requests by answer", (*service, "code"))
        self._bytes = Counter("galaxray_bytes", "Bytes that came back", service)
        self._retries = Counter("galaxray_retries", "Requests that were not the first for their row", service)

    def count(self, report: UnitReport) -> None:
        """Count a unit that was written."""
        self._units.inc(1, self._tags)
        if report.rows:
            self._rows_done.inc(report.rows, self._tags)
        for stage, seconds in report.seconds.items():
            self._seconds.observe(seconds, {**self._tags, "stage": stage})
        for code, count in report.fetched["answers"].items():
            self._requests.inc(count, {**self._host, "code": code})
        for counter, count in ((self._bytes, report.fetched["bytes"]), (self._retries, report.fetched["retries"])):
            if count:  # a counter refuses to be raised by nothing
                counter.inc(count, self._host)

    def show(self, ledger: Ledger, seconds_left: float | None) -> None:
        """Tell how far the run is."""
        self._catalog_rows.set(ledger.run.num_rows, self._tags)
        by_status = ledger.by_status
        for status in Status:  # also those that have become none
            self._rows.set(by_status[status.value], {**self._tags, "status": status.value})
        if seconds_left is not None:
            self._seconds_left.set(seconds_left, self._tags)


class WatchedGovernor:
    """A governor that tells Prometheus its state.

    Parameters
    ----------
    governor : Governor
    config : CutoutConfig
    run_id : str
    """

    def __init__(self, governor: Governor, config: CutoutConfig, run_id: str) -> None:
        self._governor = governor
        self._tags = {"run_id": run_id, "host": host_of(config)}
        self._shown_at: float | None = None
        keys = tuple(self._tags)
        self._rate = Gauge("galaxray_limiter_rate", "Requests per second that are sent at most now", keys)
        self._cap = Gauge("galaxray_limiter_cap", "Requests per second that the user set", keys)
        self._in_flight = Gauge("galaxray_limiter_in_flight", "Requests in flight", keys)
        self._waiting = Gauge("galaxray_limiter_waiting", "Requests that wait for their turn", keys)
        self._paused = Gauge("galaxray_limiter_paused_seconds", "What is left of a pause", keys)
        self._refused = Gauge("galaxray_limiter_refused", "Requests refused so far (429, 503)", keys)
        if config.requests_per_s is not None:
            self._cap.set(config.requests_per_s, self._tags)

    def sync(self, now: float, report: Report) -> Grant:
        """As the governor's own."""
        grant = self._governor.sync(now, report)
        if self._shown_at is None or now - self._shown_at >= SHOW_S:
            self._shown_at = now
            self._show(self._governor.snapshot(now))
        return grant

    def snapshot(self, now: float) -> Snapshot:
        """As the governor's own."""
        return self._governor.snapshot(now)

    def _show(self, state: Snapshot) -> None:
        if state.requests_per_s is not None:
            self._rate.set(state.requests_per_s, self._tags)
        self._in_flight.set(state.in_flight, self._tags)
        self._waiting.set(state.waiting, self._tags)
        self._paused.set(state.paused_s, self._tags)
        self._refused.set(state.refused, self._tags)


def new_requests(now: FetchStats, before: FetchStats) -> dict[str, Any]:
    """What a fetcher has done between two looks, as JSON values."""
    return {
        "answers": dict(now.answers - before.answers),
        "bytes": now.bytes - before.bytes,
        "retries": now.retries - before.retries,
    }


_units_in_work: Counts[str] = Counts()
_lock = threading.Lock()
_gauge: Gauge | None = None


@contextmanager
def in_work(run_id: str | None, stage: str) -> Iterator[None]:
    """Count a unit as in the hands of a stage, in this process, if the run is watched."""
    if run_id is None:
        yield
        return
    _add_in_work(run_id, stage, 1)
    try:
        yield
    finally:
        _add_in_work(run_id, stage, -1)


def _add_in_work(run_id: str, stage: str, number: int) -> None:
    global _gauge
    with _lock:
        if _gauge is None:
            _gauge = Gauge("galaxray_units_in_work", "Units in the hands of a stage's actors", ("run_id", "stage"))
        _units_in_work[stage] += number
        _gauge.set(_units_in_work[stage], {"run_id": run_id, "stage": stage})
