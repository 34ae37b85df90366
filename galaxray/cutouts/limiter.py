"""A limiter that does what a governor grants, be it in this process or elsewhere in the cluster."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import uuid
from collections import Counter, deque
from collections.abc import Awaitable, Callable

from galaxray.cutouts.governor import Governor
from galaxray.cutouts.grants import LEASE_S, Grant, Report
from galaxray.cutouts.limits import ServiceDownError, Verdict

__all__ = ["GovernedLimiter", "Link", "local_limiter"]

logger = logging.getLogger(__name__)

Link = Callable[[Report], Grant | Awaitable[Grant]]
"""The way to a governor: its answer, or where that can be awaited."""

MAX_LATENESS_S = 0.05
# A turn may be taken so much after its time, in seconds. After a longer stall of the event loop turns are lost, not
# made up for by a burst.

TICK_S = 1e-6
# Times that differ by less are the same: event loops round.

MIN_INTERVAL_S = 0.01
# Between two reports to a governor elsewhere, however much there is to tell.

RETRY_S = 0.5
# Between two tries to reach a governor that does not answer.

NO_GRANT = Grant(in_flight=0, turns=(), pause_s=0.0, version=0, rate=None, outage=None, next_report_s=0.0)


class GovernedLimiter:
    """Leave to send requests to one service, as a governor grants it.

    While the governor cannot be reached, nothing new is sent. The methods are those of `Limiter`.

    Parameters
    ----------
    link : callable
        Brings a `Report` to the governor, and its `Grant` back.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._name = uuid.uuid4().hex
        self._held = 0
        self._waiting: list[tuple[int, int, asyncio.Future[int]]] = []  # a heap; some may be cancelled
        self._num_waiting = 0
        self._order = itertools.count()
        self._ended = _Ended()
        self._grant = NO_GRANT
        # All times are the event loop's, which no change of the wall clock moves.
        self._granted_at = self._good_until = self._resume_at = 0.0
        self._turns: deque[float] = deque()
        self._is_halted = False
        self._is_remote = False
        self._is_cut_off = False
        self._reporting: asyncio.Task[None] | None = None
        self._report_timer: asyncio.TimerHandle | None = None
        self._turn_timer: asyncio.TimerHandle | None = None

    @property
    def outage(self) -> str | None:
        """Why the service is given up for the moment, as last heard."""
        return None if self._grant.outage is None else self._grant.outage.reason

    async def acquire(self, number: int = 0) -> int:
        """Wait until one request may be sent."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if not self._num_waiting and self._may_send(now):
            return self._send()
        if self._grant.outage is not None and self._is_current(now):
            raise self._down()
        called: asyncio.Future[int] = loop.create_future()
        heapq.heappush(self._waiting, (number, next(self._order), called))
        self._num_waiting += 1
        if self._num_waiting == 1 and not (self._is_current(now) and 0 < self._grant.in_flight <= self._held):
            self._report_soon()
        try:
            return await called
        except asyncio.CancelledError:
            if called.cancelled():
                self._num_waiting -= 1
            elif called.exception() is None:  # called and cancelled in the same turn of the event loop
                self._held -= 1
                self._serve()
            raise

    def release(self, verdict: Verdict, retry_after_s: float | None = None, sent_under: int | None = None) -> None:
        """Report the end of a request."""
        self._held -= 1
        self._ended.count(verdict, retry_after_s, self._grant.version if sent_under is None else sent_under)
        if verdict is Verdict.REFUSED:  # the governor must know before anything more is sent
            self._is_halted = True
        if verdict is not Verdict.ANSWERED or self._grant.outage is not None:
            self._report_soon()
        self._serve()

    def _is_current(self, now: float) -> bool:
        """Whether no new grant is due."""
        return now < self._granted_at + self._grant.next_report_s

    def _may_send(self, now: float) -> bool:
        if self._is_halted or self._held >= self._grant.in_flight or now >= self._good_until:
            return False
        while self._turns and self._turns[0] < now - MAX_LATENESS_S:
            self._turns.popleft()
        begin = self._begin()
        return begin is not None and begin <= now + TICK_S

    def _begin(self) -> float | None:
        """When the next request may be sent, as far as is known."""
        if self._grant.turns is None:
            return self._resume_at
        return max(self._resume_at, self._turns[0]) if self._turns else None

    def _send(self) -> int:
        self._held += 1
        if self._turns:
            self._turns.popleft()
        return self._grant.version

    def _serve(self) -> None:
        """Call as many of those who wait as may send now; come back when the next may."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._may_send(now) and (called := self._next_waiting()) is not None:
            called.set_result(self._send())
        if self._turn_timer is not None:
            self._turn_timer.cancel()
            self._turn_timer = None
        if not self._num_waiting or self._is_halted or self._held >= self._grant.in_flight:
            return
        begin = self._begin()
        if begin is not None and begin > now:
            self._turn_timer = loop.call_at(begin, self._serve)

    def _next_waiting(self) -> asyncio.Future[int] | None:
        while self._waiting:
            *_, called = heapq.heappop(self._waiting)
            if not called.cancelled():
                self._num_waiting -= 1
                return called
        return None

    def _down(self) -> ServiceDownError:
        assert self._grant.outage is not None
        return ServiceDownError(self._grant.outage.status, f"not asked: {self._grant.outage.reason}")

    def _report_soon(self) -> None:
        """Report at once; to a governor elsewhere, if that was done just now, in a moment."""
        wait_s = self._granted_at + MIN_INTERVAL_S - asyncio.get_running_loop().time()
        if self._is_remote and wait_s > 0:
            self._report_in(wait_s)
        else:
            self._report()

    def _report_in(self, wait_s: float) -> None:
        if self._report_timer is not None:
            self._report_timer.cancel()
        self._report_timer = asyncio.get_running_loop().call_later(wait_s, self._report)

    def _report(self) -> None:
        """Send a report, unless one is under way: then the next follows when that is answered."""
        if self._reporting is not None:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        ended, self._ended = self._ended, _Ended()
        report = Report(
            client=self._name,
            held=self._held,
            waiting=self._num_waiting,
            turns=len(self._turns),
            answered=ended.counts[Verdict.ANSWERED],
            failed=ended.counts[Verdict.FAILED],
            refused=ended.counts[Verdict.REFUSED],
            refused_version=ended.refused_version,
            retry_after_s=ended.retry_after_s,
            version=self._grant.version,
            rate=self._grant.rate,
            pause_s=max(0.0, self._resume_at - now),
        )
        answer = self._link(report)
        if isinstance(answer, Grant):
            self._take(answer, now)
        else:
            self._is_remote = True
            self._reporting = loop.create_task(self._await_grant(answer, ended, now))

    async def _await_grant(self, answer: Awaitable[Grant], ended: _Ended, sent_at: float) -> None:
        try:
            grant = await answer
        except Exception as error:  # whatever happens to a governor must not end what depends on it
            if not self._is_cut_off:
                logger.warning("nothing is sent until the limits can be had again: %s: %s", type(error).__name__, error)
            self._is_cut_off = True
            self._reporting = None
            self._ended.add(ended)
            self._report_in(RETRY_S)
        else:
            self._is_cut_off = False
            self._reporting = None
            self._take(grant, sent_at)

    def _take(self, grant: Grant, asked_at: float) -> None:
        now = asyncio.get_running_loop().time()
        self._grant, self._granted_at, self._good_until = grant, now, asked_at + LEASE_S
        self._resume_at = now + grant.pause_s
        self._is_halted = self._ended.counts[Verdict.REFUSED] > 0
        if grant.turns is None or grant.pause_s > 0 or grant.outage is not None:
            self._turns.clear()
        self._turns.extend(now + turn_s for turn_s in grant.turns or ())
        self._serve()
        while grant.outage is not None and (called := self._next_waiting()) is not None:
            called.set_exception(self._down())
        if self._ended.is_urgent:
            self._report_in(MIN_INTERVAL_S)
        elif self._held or self._num_waiting or self._ended.counts or grant.in_flight:
            self._report_in(grant.next_report_s)


class _Ended:
    """How requests have ended since the last report."""

    def __init__(self) -> None:
        self.counts: Counter[Verdict] = Counter()
        self.refused_version: int | None = None
        self.retry_after_s: float | None = None

    @property
    def is_urgent(self) -> bool:
        return self.counts[Verdict.REFUSED] + self.counts[Verdict.FAILED] > 0

    def count(self, verdict: Verdict, retry_after_s: float | None, version: int) -> None:
        self.counts[verdict] += 1
        if verdict is Verdict.REFUSED:
            self._note_refusal(version, retry_after_s)

    def add(self, other: _Ended) -> None:
        self.counts.update(other.counts)
        if other.refused_version is not None:
            self._note_refusal(other.refused_version, other.retry_after_s)

    def _note_refusal(self, version: int, retry_after_s: float | None) -> None:
        self.refused_version = max(version, self.refused_version or 0)
        if retry_after_s is not None:
            self.retry_after_s = max(retry_after_s, self.retry_after_s or 0.0)


def local_limiter(governor: Governor) -> GovernedLimiter:
    """Make the limiter of a fetcher that has a governor to itself."""
    return GovernedLimiter(lambda report: governor.sync(asyncio.get_running_loop().time(), report))
