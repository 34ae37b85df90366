"""What is known of the finished units of a run: counts of each, small enough for a million of them.

The files are the truth, and the ledger remembers what they said: a footer is read once, or never where the writer's
report told its content, and again only if the file has changed since.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

import numpy as np

from galaxray.errors import RunError
from galaxray.runs import Listing, Run
from galaxray.schema import TRANSIENT_STATUSES, Status
from galaxray.units import RecordReader, UnitRecord, unit_name

__all__ = ["Counting", "Ledger"]

ERROR_KINDS = 50
"""Distinct error texts that are kept, at least."""

NUM_THREADS = 16
"""Footers read at a time: each is one short request, which waits more than it works."""

_STATUSES = [status.value for status in Status]
_IS_TRANSIENT = np.array([status in TRANSIENT_STATUSES for status in Status])


class Ledger:
    """Counts of the finished units of a run. Thread-safe.

    Parameters
    ----------
    run : Run
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._counts = np.zeros((run.num_units, len(_STATUSES)), np.int32)
        self._sums = np.zeros(len(_STATUSES), np.int64)
        # Of the file that was counted, to see that it has not changed; size -1 where none was.
        self._size = np.full(run.num_units, -1, np.int64)
        self._modified = np.full(run.num_units, np.nan)
        self._errors: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def by_status(self) -> Counter[str]:
        """Rows by status, of the units counted so far."""
        return +Counter(dict(zip(_STATUSES, self._sums.tolist(), strict=True)))

    @property
    def errors(self) -> dict[str, int]:
        """Rows by error, the commonest first, of the units counted so far."""
        with self._lock:
            return dict(self._errors.most_common(ERROR_KINDS))

    def retryable(self) -> list[int]:
        """Units with rows that another try may mend, sorted, of those counted so far."""
        units: list[int] = np.flatnonzero(self._counts[:, _IS_TRANSIENT].any(axis=1)).tolist()
        return units

    @property
    def transient(self) -> int:
        """Rows that another try may mend, of the units counted so far."""
        return int(self._sums[_IS_TRANSIENT].sum())

    def transient_in(self, units: Sequence[int]) -> int:
        """Rows of these units that another try may mend, of those counted so far."""
        return int(self._counts[np.asarray(units, int)][:, _IS_TRANSIENT].sum())

    def add(self, record: UnitRecord, size: int, modified: float = np.nan, before: UnitRecord | None = None) -> None:
        """Count a unit, in place of what it counted for.

        Parameters
        ----------
        record : UnitRecord
            What its file says.
        size : int
            Bytes of that file.
        modified : float
            When it was written; NaN if not known.
        before : UnitRecord, optional
            What the file said that it replaces. Without it the errors of that one stay counted.

        Raises
        ------
        RunError
            If it has another number of rows than the catalogue.
        """
        counts = np.array([record.by_status.get(status, 0) for status in _STATUSES])
        expected = self.run.rows_in([record.unit])
        if not record.rows == counts.sum() == expected:
            raise RunError(
                f"{self.run.output}/{unit_name(record.unit)} has {record.rows} rows and {counts.sum()} statuses, the "
                f"catalogue has {expected} rows: delete it and run again"
            )
        with self._lock:
            self._sums += counts - self._counts[record.unit]
            self._counts[record.unit] = counts
            self._size[record.unit], self._modified[record.unit] = size, modified
            self._add_errors(record.errors, {} if before is None else before.errors)

    def uncounted(self, listing: Listing) -> np.ndarray:
        """Units whose files were not counted yet, or have changed since, int (N,)."""
        later = ~np.isnan(self._modified) & (listing.modified != self._modified)
        changed: np.ndarray = np.flatnonzero((listing.size >= 0) & ((listing.size != self._size) | later))
        return changed

    def count(
        self,
        listing: Listing,
        *,
        stop: threading.Event | None = None,
        tell: Callable[[int, int], None] = lambda read, wanted: None,
    ) -> None:
        """Read the footers of what is not counted yet.

        Parameters
        ----------
        listing : Listing
        stop : threading.Event, optional
            Ends the reading early.
        tell : callable
            Told how many of how many footers are read, as a large run takes a while.

        Raises
        ------
        RunError
            If a file is damaged or of another run.
        """
        read = RecordReader(self.run.folder, self.run.run_id)
        units = self.uncounted(listing).tolist()
        with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="galaxray-footers") as threads:
            # A million waiting calls would take more memory than their results.
            for first in range(0, len(units), 16 * NUM_THREADS):
                for record in threads.map(read, units[first : first + 16 * NUM_THREADS]):
                    self.add(record, int(listing.size[record.unit]), float(listing.modified[record.unit]))
                tell(min(first + 16 * NUM_THREADS, len(units)), len(units))
                if stop is not None and stop.is_set():
                    return

    def verify(self, tell: Callable[[int, int], None] = lambda read, wanted: None) -> None:
        """Count what is left, after checking that the table has every catalogue row exactly once.

        Parameters
        ----------
        tell : callable
            As of :meth:`count`.

        Raises
        ------
        RunError
            If a unit is missing, damaged, of another run, or has another number of rows than the catalogue.
        """
        listing = self.run.listing()
        if len(listing.units) != self.run.num_units:
            raise RunError(
                f"{self.run.output}: {len(listing.units)} units are there, {self.run.num_units} are planned; "
                "run it again"
            )
        self.count(listing, tell=tell)

    def _add_errors(self, errors: Mapping[str, int], before: Mapping[str, int]) -> None:
        self._errors.update(errors)
        self._errors.subtract(before)
        for text in before:
            if self._errors[text] <= 0:
                del self._errors[text]
        if len(self._errors) > 20 * ERROR_KINDS:
            self._errors = Counter(dict(self._errors.most_common(10 * ERROR_KINDS)))


class Counting:
    """Counts finished units in a thread of its own, while their run goes on; ends with a ``with`` statement.

    Parameters
    ----------
    ledger : Ledger
    listing : Listing
        What was there before; units that are in it must not be done again before :meth:`wait` returns.
    """

    def __init__(self, ledger: Ledger, listing: Listing) -> None:
        self._ledger = ledger
        self._listing = listing
        self._stop = threading.Event()
        self._state = (0, 0)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._count, name="galaxray-count", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def begin(self) -> None:
        """Begin, unless that was done; not before the program has started what else it needs cores for."""
        if self._thread.ident is None:
            self._thread.start()

    def check(self) -> None:
        """Raise what the thread has met, if anything: RunError for a file that is damaged or of another run."""
        if self._failure is not None:
            raise self._failure

    def wait(self, tell: Callable[[int, int], None] = lambda read, wanted: None) -> None:
        """Wait until all is counted, telling as `Ledger.count` does; raises as :meth:`check` does."""
        self.begin()
        while self._thread.is_alive():
            self._thread.join(1.0)
            tell(*self._state)
        self.check()

    def _count(self) -> None:
        def note(read: int, wanted: int) -> None:
            self._state = (read, wanted)

        try:
            self._ledger.count(self._listing, stop=self._stop, tell=note)
        except BaseException as failure:
            self._failure = failure
