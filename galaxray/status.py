"""How a run stands: what is done, how fast, who works on it, and what to do next; read from its folder alone.

Nothing is written and no program is disturbed, so it may be asked while a run goes on, from another machine too. Times
are those of the files, by the clock of their disk or store, and never compared with another clock.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from galaxray.errors import ConfigError, RunError
from galaxray.ledger import Ledger
from galaxray.lock import Holder, find_holder
from galaxray.runs import Listing, Run, open_run
from galaxray.schema import Status
from galaxray.storage import open_folder

__all__ = ["RunStatus", "RunWatch"]

RECENT_S = 300.0
"""The rate is that of the files of the last five minutes."""

PATIENCE_S = 15.0
"""How long to wait for a sign of a program on another machine, which renews its lock every ten seconds."""

ERRORS_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How a run stands.

    Attributes
    ----------
    output, run_id : str
    rows, rows_done : int
        Rows of the catalogue, and those in finished files.
    by_status, errors : dict of str to int
        Finished rows by status, and by error, the commonest first.
    rows_per_s : float, optional
        Rate of the last five minutes; None if nobody works, or too little is done to tell.
    rows_per_s_overall : float, optional
        Rate from the first file to the last, pauses included.
    seconds_left : float, optional
        At the rate of the last five minutes.
    program : str, optional
        Who works on the run, or did and left its lock.
    is_at_work : bool
        Whether that program is alive.
    rows_to_retry : int
        Rows that were throttled or not reached.
    problem : str, optional
        What is wrong with a file of the run.
    advice : str
        What to do next.
    """

    output: str
    run_id: str
    rows: int
    rows_done: int
    by_status: dict[str, int]
    errors: dict[str, int]
    rows_per_s: float | None
    rows_per_s_overall: float | None
    seconds_left: float | None
    program: str | None
    is_at_work: bool
    rows_to_retry: int
    problem: str | None
    advice: str

    def describe(self) -> str:
        """Some lines for a person."""
        rates = [
            f"{rate:,.1f} rows/s {when}"
            for rate, when in ((self.rows_per_s, "lately"), (self.rows_per_s_overall, "from first to last"))
            if rate is not None
        ]
        left = None if self.seconds_left is None else str(timedelta(seconds=round(self.seconds_left)))
        program = f"{self.program}, {'at work' if self.is_at_work else 'dead'}" if self.program else "none"
        lines = {
            "run": f"{self.run_id} in {self.output}",
            "rows": f"{self.rows_done:,} of {self.rows:,} ({100 * self.rows_done / self.rows:.1f} %)",
            "status": ", ".join(f"{name} {count:,}" for name, count in self.by_status.items()),
            "rate": ", ".join(rates),
            "to go": left,
            "program": program,
            "problem": self.problem,
            "next": self.advice,
        }
        texts = [f"{name:<8} {text}" for name, text in lines.items() if text]
        return "\n".join([*texts, *(f"{count:>12,} x {error}" for error, count in self.errors.items())])


class RunWatch:
    """Looks at a run now and then; each look reads the footers of new files only.

    Parameters
    ----------
    output : str
        The run folder.

    Raises
    ------
    ConfigError
        If it holds no run.
    RunMismatchError
        If its ``run.json`` is not one of ours.
    """

    def __init__(self, output: str) -> None:
        run = open_run(output)
        if run is None:
            hint = (
                "the catalogue is still being read" if open_folder(output).exists("lock.json") else "name a run folder"
            )
            raise ConfigError(f"{output} holds no run (there is no run.json): {hint}")
        self._run = run
        self._folder = run.folder
        self._ledger = Ledger(run)
        self._holder: Holder | None = None
        self._seen_at = -math.inf

    def look(self, patience_s: float = PATIENCE_S) -> RunStatus:
        """See how the run stands.

        Parameters
        ----------
        patience_s : float
            How long to wait for a sign of life of a program on another machine, once.
        """
        run, problem = self._run, None
        try:
            listing = run.listing()
            self._ledger.count(listing)
        except RunError as error:
            problem = str(error)
            listing = run.listing(strict=False)
        is_at_work = self._is_at_work(patience_s)
        done = run.rows_in(listing.units)
        lately, overall = self._rates(listing)
        lately = lately if is_at_work and done < run.num_rows else None
        by_status, to_retry = self._ledger.by_status, self._ledger.transient
        return RunStatus(
            output=run.output,
            run_id=run.run_id,
            rows=run.num_rows,
            rows_done=done,
            by_status={status.value: by_status[status] for status in Status if by_status[status]},
            errors=dict(list(self._ledger.errors.items())[:ERRORS_SHOWN]),
            rows_per_s=lately,
            rows_per_s_overall=overall,
            seconds_left=(run.num_rows - done) / lately if lately else None,
            program=self._holder.name if self._holder else None,
            is_at_work=is_at_work,
            rows_to_retry=to_retry,
            problem=problem,
            advice=_advice(done < run.num_rows, is_at_work, to_retry, self._folder.exists("summary.json")),
        )

    def _rates(self, listing: Listing) -> tuple[float | None, float | None]:
        """Rows per second of the last minutes and of all; the first file only says when the time begins."""
        if len(listing.units) < 2:
            return None, None
        # The lock is renewed every few seconds: the latest that the clock of the disk or store is known to have said.
        entries = [entry.modified for entry in self._folder.entries("") if entry.name == "lock.json"]
        now = max([*entries, float(np.nanmax(listing.modified))])
        return _rate(self._run, listing, now - RECENT_S, now), _rate(
            self._run, listing, 0.0, np.nanmax(listing.modified)
        )

    def _is_at_work(self, patience_s: float) -> bool:
        before, self._holder = self._holder, find_holder(self._folder)
        if before is None:
            before = self._holder
            until = time.monotonic() + patience_s
            while self._holder == before and self._is_elsewhere() and time.monotonic() < until:
                time.sleep(min(1.0, patience_s / 10))
                self._holder = find_holder(self._folder)
        if self._holder is None:
            return False
        if self._holder.is_alive is not None:
            return self._holder.is_alive
        if self._holder != before:  # it renews its lock
            self._seen_at = time.monotonic()
        return time.monotonic() - self._seen_at < 3 * PATIENCE_S

    def _is_elsewhere(self) -> bool:
        return self._holder is not None and self._holder.is_alive is None


def _rate(run: Run, listing: Listing, since: float, until: float) -> float | None:
    """Rows per second of the files written since then."""
    units = np.flatnonzero(np.nan_to_num(listing.modified, nan=-np.inf) > since)
    if len(units) < 2:
        return None
    first = units[listing.modified[units].argmin()]
    seconds = until - float(listing.modified[first])
    return run.rows_in([unit for unit in units.tolist() if unit != first]) / seconds if seconds > 0 else None


def _advice(is_left: bool, is_at_work: bool, to_retry: int, is_summarized: bool) -> str:
    if is_at_work:
        return "wait: a program works on it"
    if is_left or not is_summarized:
        return "run the same command again: it goes on from here"
    if to_retry:
        return f"{to_retry:,} rows were throttled or not reached: run the same command with --retry-failed"
    return "nothing: the run is finished"
