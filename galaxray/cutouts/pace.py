"""How many requests per second a service is asked: gently at first, less when it refuses, then slowly more again.

The rate falls to nine tenths of what the service bore and grows back along the cubic curve of RFC 9438: it comes near
the old rate soon, stays a little below it for long, and only then tries more. Halving and growing in a straight line,
as TCP once did, would leave a quarter of what the service allows unused, and be refused more often.
"""

from __future__ import annotations

__all__ = ["LEAST_RATE", "Pace"]

FIRST_RATE = 10.0
"""Requests per second at the beginning; doubled each second up to the limit."""

LEAST_RATE = 0.5
"""Requests per second below which the rate does not fall; a service that bears less is obeyed by pauses."""

KEPT = 0.9
"""What is left of the rate after a refusal."""

RECOVERY_S = 30.0
RECOVERY_REQUESTS = 100.0
RECOVERY_PAUSES = 20.0
MAX_RECOVERY_S = 600.0
# The rate is back where it was after the longest of so many seconds, requests and lengths of the pause (up to
# `MAX_RECOVERY_S`): so refusals stay below one in a hundred, and pauses below a twentieth of the time.

MIN_ANSWERS = 10
# From fewer answers no rate is computed.


class Pace:
    """The rate at which one service is asked. All times are those of one clock that never goes back.

    Parameters
    ----------
    limit : float or None
        Most requests per second; None = as fast as it answers, until it refuses.
    """

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self._began: float | None = None
        self._peak: float | None = None  # the rate before the last refusal; None before the first
        self._recovers_from = 0.0
        self._recovery_s = RECOVERY_S
        self._answers = 0
        self._busy_s = 0.0

    def rate(self, now: float) -> float | None:
        """Requests per second; None = no limit."""
        if self._peak is None:
            if self.limit is None:
                return None
            if self._began is None:
                self._began = now
            grown: float = FIRST_RATE * 2.0 ** min(now - self._began, 60.0)
            return min(self.limit, grown)
        left = 1.0 - max(0.0, now - self._recovers_from) / self._recovery_s
        return self._bounded(self._peak * (1.0 - (1.0 - KEPT) * left**3))

    def count(self, answers: int, busy_s: float) -> None:
        """Note answers, and the seconds since the last count if somebody waited to ask."""
        self._answers += answers
        self._busy_s += busy_s

    def lower(self, now: float, pause_s: float) -> None:
        """Ask less: the service has refused, and nothing is sent for ``pause_s`` seconds.

        What it bore is what it answered since the last refusal, pauses included, or the rate, if that is less.
        """
        rate = self.rate(now)
        borne = self._answers / self._busy_s if self._answers >= MIN_ANSWERS and self._busy_s > 0 else None
        if rate is None:
            rate = borne
        elif self._peak is not None and borne is not None:  # before the first refusal it was still growing
            rate = min(rate, borne)
        self._answers, self._busy_s = 0, 0.0
        if rate is not None:
            self._recover(rate, now + pause_s, pause_s)

    def adopt(self, rate: float, now: float) -> None:
        """Go on from the rate that another pace had come to."""
        self._recover(self._bounded(rate), now, 0.0)

    def _recover(self, peak: float, begin: float, pause_s: float) -> None:
        self._peak, self._recovers_from = peak, begin
        pauses_s = min(RECOVERY_PAUSES * pause_s, MAX_RECOVERY_S)
        self._recovery_s = max(RECOVERY_S, RECOVERY_REQUESTS / self._bounded(peak), pauses_s)

    def _bounded(self, rate: float) -> float:
        rate = max(rate, LEAST_RATE)
        return rate if self.limit is None else min(rate, self.limit)
