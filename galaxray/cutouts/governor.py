"""One limit for all who ask a service, wherever they run.

A `Governor` divides the requests per second and in flight of one service among its clients, the fetchers of a run. It
is a plain state machine: it never waits, and the time is passed in. So it serves one fetcher in its own process, or in
an actor those of a whole cluster. A client reports some ten times a second while it is at work, and is granted what it
may do until the next time. What is granted is little, so that little is under way when the service refuses.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from galaxray.config import CutoutConfig
from galaxray.cutouts.grants import LEASE_S, Grant, Outage, Report, Snapshot
from galaxray.cutouts.health import Health
from galaxray.cutouts.limits import Verdict
from galaxray.cutouts.pace import Pace

__all__ = ["Governor", "make_governor"]

DEAD_AFTER_S = LEASE_S + 2.0
# A client not heard of for so long is dead, and what it held is free.

INTERVAL_S = 0.1
INTERVAL_S_PER_CLIENT = 0.005
# Time between two reports of a client at work, longer with many clients: at most 200 reports per second in all.

KEEPALIVE_S = 1.5
# Longest time between two reports of a client that waits or holds anything.

ROTATION_S = 2.0
# Of slots that do not divide evenly, the remainder goes round among the clients: each has it for so long.


@dataclass(slots=True)
class _Client:
    heard: float = 0.0
    due: float = 0.0
    held: int = 0
    waiting: int = 0
    granted: int = 0
    turns_had: float = 0.0
    competes: bool = False
    """Whether it had fewer turns than it could use."""

    @property
    def slots(self) -> int:
        """What it may have in flight at any time until its next report."""
        return max(self.held, self.granted)

    @property
    def wants(self) -> int:
        return self.held + self.waiting


class Governor:
    """Requests per second, requests in flight, pauses and outages of one service.

    Requests are spaced evenly: there is no burst after a quiet time, as services count bursts as abuse. A refusal
    pauses everybody, for as long as the service asks or ever longer, and lowers the rate (`Pace`). A service that has
    not answered at all for ``patience_s`` is asked only once per ``max_pause_s`` from then on, until it answers.

    Parameters
    ----------
    requests_per_s : float or None
        Most requests per second; None = no limit until the service refuses.
    max_in_flight : int
        Most requests in flight.
    pause_s, max_pause_s : float
        First and longest pause after a refusal, in seconds; Retry-After is obeyed up to `MAX_RETRY_AFTER_S`.
    patience_s : float
        How long nothing but failures is borne before rows are given up without asking, in seconds.
    is_successor : bool
        Whether clients may still hold grants of a governor that is lost: nothing is begun until those have run out.
    """

    def __init__(
        self,
        requests_per_s: float | None,
        max_in_flight: int,
        *,
        pause_s: float = 0.5,
        max_pause_s: float = 60.0,
        patience_s: float = 300.0,
        is_successor: bool = False,
    ) -> None:
        self._max_in_flight = max_in_flight
        self._pace = Pace(requests_per_s)
        self._health = Health(pause_s=pause_s, max_pause_s=max_pause_s, patience_s=patience_s)
        self._version = 1
        self._clients: dict[str, _Client] = {}
        self._next_turn = 0.0
        self._last_report: float | None = None
        self._settles_s = LEASE_S if is_successor else 0.0
        self._settled_at = 0.0
        self._ended: Counter[Verdict] = Counter()

    def sync(self, now: float, report: Report) -> Grant:
        """Take a client's report and grant what it may do now.

        Parameters
        ----------
        now : float
            Time in seconds, on a clock that never goes back.
        report : Report
        """
        client = self._hear(now, report)
        self._count(now, report)
        client.granted = self._slots(now, client)
        outage = self._health.outage
        turns = self._turns(now, client, report.turns) if outage is None else self._probe(now, client)
        if outage is not None:
            client.granted = min(client.granted, client.held + len(turns or ()))
        next_report_s = self._next_report_s(now, outage, paced=turns is not None)
        client.due = now + next_report_s
        return Grant(
            in_flight=client.granted,
            turns=turns,
            pause_s=max(0.0, self._health.resume_at - now),
            version=self._version,
            rate=self._pace.rate(now),
            outage=outage,
            next_report_s=next_report_s,
        )

    def snapshot(self, now: float) -> Snapshot:
        """The state as it is now, for those who watch."""
        outage = self._health.outage
        alive = [client for client in self._clients.values() if now - client.heard <= DEAD_AFTER_S]
        return Snapshot(
            requests_per_s=self._pace.rate(now),
            clients=len(alive),
            in_flight=sum(client.held for client in alive),
            waiting=sum(client.waiting for client in alive),
            paused_s=max(0.0, self._health.resume_at - now),
            answered=self._ended[Verdict.ANSWERED],
            failed=self._ended[Verdict.FAILED],
            refused=self._ended[Verdict.REFUSED],
            outage=None if outage is None else outage.reason,
        )

    def _hear(self, now: float, report: Report) -> _Client:
        if self._last_report is None:
            self._last_report, self._settled_at = now, now + self._settles_s
        self._measure(now, report)
        self._last_report = now
        for name in [name for name, client in self._clients.items() if now - client.heard > DEAD_AFTER_S]:
            del self._clients[name]
        if report.version > self._version:  # the client knew a governor that is lost
            self._version = report.version
            self._health.pause(now, report.pause_s)
            if report.rate is not None:
                self._pace.adopt(report.rate, now)
        client = self._clients.setdefault(report.client, _Client())
        client.heard, client.held, client.waiting = now, report.held, report.waiting
        return client

    def _measure(self, now: float, report: Report) -> None:
        """Tell the pace how requests have ended, and how long somebody had something to ask."""
        began = max(self._last_report or now, now - DEAD_AFTER_S)
        paused_s = min(max(self._health.resume_at - began, 0.0), now - began)
        is_busy = any(client.waiting for client in self._clients.values())
        sending_s = now - began - paused_s
        self._pace.count(report.answered, report.refused, sending_s * is_busy, paused_s * is_busy)

    def _count(self, now: float, report: Report) -> None:
        self._ended.update(
            {Verdict.ANSWERED: report.answered, Verdict.FAILED: report.failed, Verdict.REFUSED: report.refused}
        )
        if report.answered:
            self._health.answered()
        if report.refused:
            is_news = report.refused_version is None or report.refused_version >= self._version
            if self._health.refused(now, report.retry_after_s, is_news=is_news):
                self._pace.lower(now, self._health.resume_at - now)
                self._version += 1
        if report.failed or report.refused:
            last = Verdict.REFUSED if report.refused else Verdict.FAILED
            self._health.failed(now, report.failed + report.refused, last)

    def _slots(self, now: float, client: _Client) -> int:
        """Requests that a client may have in flight: its fair share, as far as others have left it."""
        if client.wants == 0:
            return 0
        fair = self._fair_share(now, client)
        if now < self._settled_at:
            fair = min(fair, client.held)
        return max(0, min(fair, self._max_in_flight - sum(o.slots for o in self._clients.values() if o is not client)))

    def _fair_share(self, now: float, client: _Client) -> int:
        """Who wants little gets that; the others divide the rest evenly."""
        wanting = [other for other in self._clients.values() if other.wants]
        left, sharers = self._max_in_flight, len(wanting)
        for other in sorted(wanting, key=lambda other: other.wants):
            if other.wants * sharers > left:
                break
            left -= other.wants
            sharers -= 1
        if sharers == 0:  # enough for all: the rest is divided too, so that nobody need ask for every request
            return client.wants + left // len(wanting)
        share, remainder = divmod(left, sharers)
        if client.wants <= share:
            return client.wants
        place = [other for other in wanting if other.wants > share].index(client)
        return share + ((place + int(now / ROTATION_S)) % sharers < remainder)

    def _turns(self, now: float, client: _Client, had: int) -> tuple[float, ...] | None:
        """Times to send at, in seconds from now; None without a rate. Those of all clients are spaced evenly."""
        if now < self._settled_at:
            return ()
        rate = self._pace.rate(now)
        if rate is None:
            return None
        horizon_s = 2 * self._interval_s
        rivals = [
            other.turns_had
            for other in self._clients.values()
            if other is not client and other.competes and now < other.due + self._interval_s
        ]
        if rivals and not client.competes:  # it is owed nothing for the time in which it wanted nothing
            client.turns_had = max(client.turns_had, min(rivals))
        most = client.turns_had + max(0, min(client.waiting, client.granted) - had)
        fair = min(rivals, default=most) + max(1.0, rate * horizon_s / (len(rivals) + 1))
        turns = []
        turn = max(now, self._next_turn, self._health.resume_at)
        while turn <= now + horizon_s and client.turns_had + 1 <= min(most, fair):
            client.turns_had += 1
            turns.append(turn - now)
            turn = self._next_turn = turn + 1 / (self._pace.rate(turn) or rate)
        client.competes = client.turns_had < most
        return tuple(turns)

    def _probe(self, now: float, client: _Client) -> tuple[float, ...]:
        has_room = client.waiting > 0 and client.granted > client.held
        return (0.0,) if has_room and self._health.probe(now) else ()

    @property
    def _interval_s(self) -> float:
        return max(INTERVAL_S, len(self._clients) * INTERVAL_S_PER_CLIENT)

    def _next_report_s(self, now: float, outage: Outage | None, *, paced: bool) -> float:
        begin = max(self._health.resume_at, self._next_turn if paced else now)
        if outage is not None:
            begin = max(now, self._health.next_probe or now)
        return max(self._interval_s, min(KEEPALIVE_S, begin - now - self._interval_s))


def make_governor(config: CutoutConfig, *, is_successor: bool = False) -> Governor:
    """Make the governor of the service that a configuration names."""
    return Governor(
        config.requests_per_s,
        config.max_in_flight,
        pause_s=config.backoff_s,
        max_pause_s=config.max_backoff_s,
        # As long as one row may take to be given up.
        patience_s=config.max_attempts * config.max_backoff_s,
        is_successor=is_successor,
    )
