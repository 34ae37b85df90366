"""How fast a service may be asked.

One `Limiter` stands for one service. `LocalLimiter` keeps the limits of one process; a limiter that a whole cluster
shares implements the same protocol.
"""

from __future__ import annotations

import asyncio
import heapq
from enum import Enum
from typing import Protocol

from galaxray.errors import RowError
from galaxray.schema import Status

__all__ = ["MAX_RETRY_AFTER_S", "Limiter", "LocalLimiter", "Queue", "ServiceDownError", "Verdict"]

MAX_RETRY_AFTER_S = 600.0
"""Longest wait that a service can ask for and gets, in seconds. A row that it sends away for longer is given up."""

MIN_FAILURES_OF_AN_OUTAGE = 10
# Fewer failures in a row say something about the rows, not about the service.

MAX_LATENESS_S = 0.05
# A turn may be taken so much after its time, in seconds. After a longer stall of the event loop turns are lost, not
# made up for by a burst.


class Verdict(Enum):
    """What a request says about the health of the service."""

    ANSWERED = "answered"
    """The service works, whatever it said about this row."""
    FAILED = "failed"
    """No connection, a time-out, a cut answer or a gateway's error."""
    REFUSED = "refused"
    """The service asks for fewer requests: 429 or 503."""


class ServiceDownError(RowError):
    """The service has not answered for so long that rows are given up without asking."""


class Limiter(Protocol):
    """Leave to send requests to one service; used from one event loop."""

    async def acquire(self) -> None:
        """Wait until one request may be sent.

        Raises
        ------
        ServiceDownError
            If the service is given up for the moment.
        """

    def release(self, verdict: Verdict, retry_after_s: float | None = None) -> None:
        """Report the end of a request that `acquire` gave leave for.

        Parameters
        ----------
        verdict : Verdict
        retry_after_s : float, optional
            The wait that a refusing service asked for, in seconds.
        """

    @property
    def outage(self) -> str | None:
        """Why the service is given up for the moment; None if it is not."""


class LocalLimiter:
    """Requests per second, requests in flight, pauses and outages of one service, in one process.

    Requests are spaced evenly: there is no burst after a quiet time, as services count bursts as abuse. A refusal
    pauses everybody, for as long as the service asks or ever longer; a service that has not answered at all for
    ``patience_s`` is asked only once per ``max_pause_s`` from then on, until it answers.

    Parameters
    ----------
    requests_per_s : float or None
        Most requests per second; None = no limit.
    max_in_flight : int
        Most requests in flight.
    pause_s, max_pause_s : float
        First and longest pause after a refusal, in seconds; Retry-After is obeyed up to `MAX_RETRY_AFTER_S`.
    patience_s : float
        How long nothing but failures is borne before rows are given up without asking, in seconds.
    """

    def __init__(
        self,
        requests_per_s: float | None,
        max_in_flight: int,
        *,
        pause_s: float = 0.5,
        max_pause_s: float = 60.0,
        patience_s: float = 300.0,
    ) -> None:
        self._interval_s = 0.0 if requests_per_s is None else 1.0 / requests_per_s
        self._in_flight = asyncio.Semaphore(max_in_flight)
        self._pause_s = pause_s
        self._max_pause_s = max_pause_s
        self._patience_s = patience_s
        # All times are the event loop's, which no change of the wall clock moves.
        self._next_turn = 0.0
        self._resume_at = 0.0
        self._refusals_in_a_row = 0
        self._failures_in_a_row = 0
        self._failing_since = 0.0
        self._last_failure = Verdict.FAILED
        self._next_probe: float | None = None

    async def acquire(self) -> None:
        """Wait until one request may be sent."""
        await self._in_flight.acquire()
        try:
            await self._wait_for_turn()
        except BaseException:
            self._in_flight.release()
            raise

    def release(self, verdict: Verdict, retry_after_s: float | None = None) -> None:
        """Report the end of a request."""
        self._in_flight.release()
        if verdict is Verdict.ANSWERED:
            self._refusals_in_a_row = self._failures_in_a_row = 0
            self._next_probe = None
            return
        now = asyncio.get_running_loop().time()
        if verdict is Verdict.REFUSED:
            self._pause(now, retry_after_s)
        if self._failures_in_a_row == 0:
            self._failing_since = now
        self._failures_in_a_row += 1
        self._last_failure = verdict
        has_lasted = now - self._failing_since >= self._patience_s
        if has_lasted and self._failures_in_a_row >= MIN_FAILURES_OF_AN_OUTAGE and self._next_probe is None:
            self._next_probe = now + self._max_pause_s
        if self._next_probe is not None:
            self._next_probe = max(self._next_probe, self._resume_at)

    @property
    def outage(self) -> str | None:
        """Why the service is given up for the moment."""
        if self._next_probe is None:
            return None
        how = "refused every request" if self._last_failure is Verdict.REFUSED else "not answered"
        return f"the service has {how} for {self._patience_s:.0f} s"

    async def _wait_for_turn(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            now = clock()
            self._give_up_in_an_outage(now)
            turn = max(now, self._next_turn, self._resume_at)
            self._next_turn = turn + self._interval_s
            if turn <= now:
                return
            await asyncio.sleep(turn - now)
            was_refused = self._resume_at > turn or self._next_probe is not None
            is_late = clock() - turn > MAX_LATENESS_S  # so are others, who must not all go at once
            if not (was_refused or is_late):
                return

    def _give_up_in_an_outage(self, now: float) -> None:
        if self._next_probe is None:
            return
        if now < self._next_probe:
            status = Status.THROTTLED if self._last_failure is Verdict.REFUSED else Status.UNREACHABLE
            raise ServiceDownError(status, f"not asked: {self.outage}")
        self._next_probe = now + self._max_pause_s  # this request is the probe

    def _pause(self, now: float, retry_after_s: float | None) -> None:
        in_a_pause = now < self._resume_at
        if not in_a_pause:  # what was in flight when the service began to refuse counts as one refusal
            self._refusals_in_a_row += 1
        if retry_after_s is not None:
            pause_s = min(max(retry_after_s, 0.0), MAX_RETRY_AFTER_S)
        elif in_a_pause:
            return
        else:
            pause_s = min(self._pause_s * 2.0 ** min(self._refusals_in_a_row - 1, 30), self._max_pause_s)
        self._resume_at = max(self._resume_at, now + pause_s)


class Queue:
    """Room for so many at a time; of those who wait, the one with the lowest number comes first.

    A row that comes back for another try keeps its number, so that it is not sent behind all rows that have not begun.

    Parameters
    ----------
    room : int
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    async def enter(self, number: int) -> None:
        """Wait for room; no two may wait with the same number."""
        if self._room > 0:
            self._room -= 1
            return
        called = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (number, called))
        try:
            await called
        except BaseException:
            if called.done() and not called.cancelled():  # called and cancelled in the same turn of the event loop
                self.leave()
            raise

    def leave(self) -> None:
        """Make room for the next."""
        while self._waiting:
            _, called = heapq.heappop(self._waiting)
            if not called.done():
                called.set_result(None)
                return
        self._room += 1
