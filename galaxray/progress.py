"""What a person sees while a long run goes on: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from galaxray.log import Log
from galaxray.schema import Status

__all__ = ["RunProgress"]

SECONDS_BETWEEN_LINES = 10.0


class RunProgress:
    """Progress of a run in rows.

    Parameters
    ----------
    total : int
        Rows to be finished at the end.
    done : int
        Rows that were finished before this program began; they do not count for the rate.
    counts : callable
        Gives the finished rows by status, as far as they are counted.
    what : str
        Begins each line.
    log : Log, optional
        Where to show it; a bar if it is a terminal.
    """

    def __init__(
        self,
        total: int,
        done: int,
        counts: Callable[[], Mapping[str, int]],
        *,
        what: str = "",
        log: Log | None = None,
    ) -> None:
        self.total = total
        self.done = done
        self.counts = counts
        self.what = what
        self.counted_from = (time.monotonic(), done)
        self.is_first = True
        self.log = log or Log()
        self.last_line = time.monotonic()
        self._bar = _bar(self.log.stream) if self.log.is_for_a_terminal else None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self.what, total=self.total, completed=self.done, rate="", counts="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, rows: int) -> None:
        """Count the rows of a finished unit."""
        self.done += rows
        now = time.monotonic()
        if self.is_first:  # the time until the first unit is start-up, and would spoil the rate
            self.counted_from, self.is_first = (now, self.done), False
        if self._bar is not None:
            self._bar.update(
                self._task, completed=self.done, rate=f"{self._rate(now):,.1f} rows/s", counts=self._counts()
            )
        elif now - self.last_line >= SECONDS_BETWEEN_LINES or self.done == self.total:
            self.last_line = now
            self.log.say("progress", self.line(now), **self._fields(now))

    @property
    def seconds_left(self) -> float | None:
        """Time to go at the present rate; None if that is not known yet."""
        rate = self._rate(time.monotonic())
        return (self.total - self.done) / rate if rate else None

    def line(self, now: float) -> str:
        """The state as one line of a log."""
        share = f"{self.what}{self.done:,} of {self.total:,} rows ({100 * self.done / self.total:.1f} %)"
        rate = self._rate(now)
        if rate and self.done < self.total:
            share += f", {rate:,.1f} rows/s, {timedelta(seconds=round((self.total - self.done) / rate))} to go"
        return f"{share}; {self._counts()}"

    def _fields(self, now: float) -> dict[str, Any]:
        """The state for machines."""
        rate = self._rate(now)
        return {
            "rows": self.total,
            "rows_done": self.done,
            "rows_per_s": round(rate, 3),
            "seconds_left": round((self.total - self.done) / rate) if rate else None,
            "by_status": dict(self.counts()),
        }

    def _rate(self, now: float) -> float:
        """Rows per second since the first unit was finished; 0 if unknown yet."""
        since, done = self.counted_from
        return (self.done - done) / (now - since) if now > since else 0.0

    def _counts(self) -> str:
        counts = self.counts()
        texts = [f"{status.value} {counts[status.value]:,}" for status in Status if counts.get(status.value)]
        uncounted = self.done - sum(counts.values())
        return ", ".join([*texts, *([f"not counted yet {uncounted:,}"] if uncounted > 0 else [])])


def _bar(stream: TextIO) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[counts]}"),
        console=Console(file=stream),
    )
