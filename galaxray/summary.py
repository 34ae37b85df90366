"""What a run came to: ``summary.json``."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from galaxray import __version__
from galaxray.runs import Run, UnitRecord
from galaxray.schema import Status

__all__ = ["Tally", "failed_fraction", "summarize", "write_summary"]

ERROR_KINDS = 50
"""Distinct error texts in the summary."""


TIMES = (
    "rows_done_now",
    "wall_s",
    "startup_s",
    "stream_s",
    "rows_per_s",
    "stages",
    "cpu_idle_fraction",
    "gpu_idle_fraction",
    "started",
    "finished",
)
"""Keys of the summary that tell of the program run which did rows last."""


@dataclass
class Tally:
    """Busy time of the stages of this program run.

    Attributes
    ----------
    began : float
        When the program began (Unix time).
    workers : mapping of str to int
        Units that each stage can work on at once.
    on_gpu : bool
        Whether the models ran on GPUs.
    rows : int
        Rows that were done.
    cpu_idle : float, optional
        Idle share of this machine's CPUs while rows were streaming.
    """

    began: float
    workers: Mapping[str, int] = field(default_factory=dict)
    on_gpu: bool = False
    rows: int = 0
    cpu_idle: float | None = None
    busy_s: Counter[str] = field(default_factory=Counter)
    first: float | None = None
    last: float | None = None

    def add(self, rows: int, seconds: Mapping[str, float], started: float) -> None:
        """Count a finished unit, whose models began at ``started`` (Unix time)."""
        self.rows += rows
        self.busy_s.update(seconds)
        self.first = started if self.first is None else min(self.first, started)
        self.last = time.time()

    @property
    def stream_s(self) -> float:
        """From the first row that reached the models (or the first stage, without them) to the last row written."""
        return self.last - self.first if self.first is not None and self.last is not None else 0.0


def summarize(run: Run, records: Iterable[UnitRecord], tally: Tally) -> dict[str, Any]:
    """The content of ``summary.json``.

    Parameters
    ----------
    run : Run
    records : iterable of UnitRecord
        Of all units: counts come from what was written, never from what was meant to be.
    tally : Tally
        Of this program run. Times and rates are of this run only, also where an earlier one did some of the rows.
    """
    by_status: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for record in records:
        by_status.update(record.by_status)
        errors.update(record.errors)
        if len(errors) > 20 * ERROR_KINDS:
            errors = Counter(dict(errors.most_common(ERROR_KINDS)))
    seconds = tally.stream_s
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
        "errors": dict(errors.most_common(ERROR_KINDS)),
        "rows_done_now": tally.rows,
        "wall_s": round(time.time() - tally.began, 3),
        "startup_s": round(tally.first - tally.began, 3) if tally.first is not None else None,
        "stream_s": round(seconds, 3),
        "rows_per_s": round(tally.rows / seconds, 2) if seconds else None,
        "stages": stages,
        "cpu_idle_fraction": tally.cpu_idle,
        # The models of a GPU take turns on it: what none of them uses is idle.
        "gpu_idle_fraction": round(max(0.0, 1 - sum(1 - idle for idle in model_idle if idle is not None)), 3)
        if tally.on_gpu and model_idle
        else None,
        "galaxray_version": __version__,
        "started": datetime.fromtimestamp(tally.began, UTC).isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
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
