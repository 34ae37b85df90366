"""What a run came to: ``summary.json``."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from galaxray import __version__
from galaxray.ledger import Ledger
from galaxray.runs import Run
from galaxray.schema import Status

__all__ = ["Tally", "failed_fraction", "summarize", "write_summary"]

TIMES = (
    "rows_done_now",
    "wall_s",
    "startup_s",
    "stream_s",
    "rows_per_s",
    "requests",
    "retries",
    "bytes",
    "stages",
    "cpu_idle_fraction",
    "gpu_idle_fraction",
    "started",
    "finished",
)
"""Keys of the summary that tell of the program run which did rows last."""


@dataclass
class Tally:
    """Times of this program run. Made when the program begins.

    Durations are of this process's monotonic clock: the clocks of machines differ, and may be set while a run goes on.

    Attributes
    ----------
    workers : mapping of str to int
        Units that each stage can work on at once.
    on_gpu : bool
        Whether the models ran on GPUs.
    rows : int
        Rows that were done.
    cpu_idle : float, optional
        Idle share of this machine's CPUs while rows were streaming.
    busy_s : Counter
        Busy time by stage.
    requests : Counter
        Requests by answer: HTTP status code, ``timeout``, ``disconnected``; files ``read``, ``failed``.
    retries, bytes : int
        Requests that were not the first for their row; bytes that came back.
    began : float
        When the program began (Unix time).
    first_s, last_s : float, optional
        When the first row reached the models, and when the last was written, in seconds since the program began.
    """

    workers: Mapping[str, int] = field(default_factory=dict)
    on_gpu: bool = False
    rows: int = 0
    cpu_idle: float | None = None
    busy_s: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    bytes: int = 0
    began: float = field(default_factory=time.time)
    first_s: float | None = None
    last_s: float | None = None
    _clock_began: float = field(default_factory=time.monotonic)

    def add(self, rows: int, seconds: Mapping[str, float], started: float) -> None:
        """Count a finished unit, whose models began at ``started`` (Unix time of the machine where they run)."""
        self.rows += rows
        self.busy_s.update(seconds)
        self.last_s = self.wall_s
        since_s = time.time() - started
        if (
            not 0.0 <= since_s <= self.last_s
        ):  # a clock is off; the unit took at least the time in which it was worked on
            since_s = min(sum(seconds.values()), self.last_s)
        first_s = self.last_s - since_s
        self.first_s = first_s if self.first_s is None else min(self.first_s, first_s)

    def add_requests(self, answers: Mapping[str, int], *, retries: int, bytes: int) -> None:
        """Count what was asked for."""
        self.requests.update(answers)
        self.retries += retries
        self.bytes += bytes

    @property
    def wall_s(self) -> float:
        """Seconds since the program began."""
        return time.monotonic() - self._clock_began

    @property
    def stream_s(self) -> float:
        """From the first row that reached the models (or the first stage, without them) to the last row written."""
        return self.last_s - self.first_s if self.first_s is not None and self.last_s is not None else 0.0


def summarize(ledger: Ledger, tally: Tally) -> dict[str, Any]:
    """The content of ``summary.json``.

    Parameters
    ----------
    ledger : Ledger
        Of all units: counts come from what was written, never from what was meant to be.
    tally : Tally
        Of this program run. Times and rates are of this run only, also where an earlier one did some of the rows.
    """
    run, by_status = ledger.run, ledger.by_status
    seconds, wall_s = tally.stream_s, tally.wall_s
    stages = {
        name: {
            "busy_s": round(busy, 3),
            "rows": tally.rows,
            "rows_per_s": round(tally.rows / busy, 2) if busy else None,
            "workers": tally.workers.get(name, 1),
            "idle_fraction": round(max(0.0, 1 - busy / (seconds * tally.workers.get(name, 1))), 3) if seconds else None,
        }
        for name, busy in tally.busy_s.items()
    }
    model_idle = [stage["idle_fraction"] for name, stage in stages.items() if name in ("classify", "embed", "segment")]
    return {
        "run_id": run.run_id,
        "rows": run.num_rows,
        "by_status": {status.value: by_status[status] for status in Status if by_status[status]},
        "errors": ledger.errors,
        "rows_done_now": tally.rows,
        "wall_s": round(wall_s, 3),
        "startup_s": round(tally.first_s, 3) if tally.first_s is not None else None,
        "stream_s": round(seconds, 3),
        "rows_per_s": round(tally.rows / seconds, 2) if seconds else None,
        "requests": dict(sorted(tally.requests.items())),
        "retries": tally.retries,
        "bytes": tally.bytes,
        "stages": stages,
        "cpu_idle_fraction": tally.cpu_idle,
        # The models of a GPU take turns on it: what none of them uses is idle.
        "gpu_idle_fraction": round(max(0.0, 1 - sum(1 - idle for idle in model_idle if idle is not None)), 3)
        if tally.on_gpu and model_idle
        else None,
        "galaxray_version": __version__,
        "started": datetime.fromtimestamp(tally.began, UTC).isoformat(timespec="seconds"),
        "finished": datetime.fromtimestamp(tally.began + wall_s, UTC).isoformat(timespec="seconds"),
    }


def failed_fraction(summary: Mapping[str, Any]) -> float:
    """Share of the rows whose status is not ok."""
    ok: int = summary["by_status"].get(Status.OK.value, 0)
    rows: int = summary["rows"]
    return (rows - ok) / rows  # not 1 - ok / rows: 3 of 10 must not be more than 0.3


def write_summary(run: Run, summary: dict[str, Any]) -> None:
    """Write ``summary.json`` into the run folder; where no rows were done, with the times that stand there already."""
    if not summary["rows_done_now"]:
        summary = summary | _times_before(run)
    run.folder.write("summary.json", json.dumps(summary, indent=2).encode())


def _times_before(run: Run) -> dict[str, Any]:
    """Times and rates in the run's ``summary.json``; none if there is no such file, or a damaged one."""
    try:
        before = json.loads(run.folder.read("summary.json"))
        return {name: before[name] for name in TIMES} if before["run_id"] == run.run_id else {}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}
