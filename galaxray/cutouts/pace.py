"""How many requests per second a service is asked: few at first, fewer when it refuses, then slowly more again.

After a refusal the rate grows back along the cubic curve of RFC 9438: it comes near the old rate soon, stays a little
below it for long, and only then tries more. Halving, and growing in a straight line, as TCP once did, would leave a
quarter of what the service allows unused, and be refused more often.
"""

from __future__ import annotations

__all__ = ["LEAST_RATE", "Pace"]

FIRST_RATE = 10.0
DOUBLING_S = 2.0
# Requests per second at the beginning, doubled every so many seconds up to the limit.

LEAST_RATE = 0.5
"""Requests per second below which the rate does not fall; a service that bears less is obeyed by pauses."""

KEPT = 0.93
KEPT_AT_FIRST = 0.7
# What is left of the rate after a refusal. The first finds it growing fast: it may be far beyond what is borne.

LEAST_BORNE = 0.75
# What a service is seen to bear is at least this part of the rate: what is seen is little after a short time.

MANY_REFUSED = (3, 0.1)
KEPT_OF_BORNE = 0.6
# Until so many and such a part of the requests are refused at once, the rate does not fall below this part of the most
# that was borne: a service that refuses one now and then, at whatever rate, would bring it down for ever.

MEAN_OF_RECOVERY = 0.96
# Mean of the rate from one refusal to the next, as a part of the rate that it grows back to.

RECOVERY_S = 30.0
FIRST_RECOVERIES_S = 10.0
RECOVERY_REQUESTS = 100.0
RECOVERY_PAUSES = 20.0
MAX_RECOVERY_S = 600.0
# The rate is back where it was after the longest of so many seconds (10 and 20 the first times, when little is known of
# the service), of so many requests, and so many times the pause up to `MAX_RECOVERY_S`: so one request in a hundred is
# refused at most, and a twentieth of the time is spent in pauses.

MIN_ANSWERS = 10
MIN_MEASURE_S = 8.0
# Fewer answers, or less time, tell nothing of what a service bears.

RETRY_AFTER_ROUNDING_S = 1.0
# Retry-After comes in whole seconds: so much of a pause may be longer than the service needs.


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
        self._peak: float | None = None  # the rate that is grown back to; None before the first refusal
        self._kept = KEPT
        self._recovers_from = 0.0
        self._recovery_s = RECOVERY_S
        self._lowerings = 0
        self._borne = 0.0
        # Since the last refusal:
        self._answered = 0
        self._refused = 0
        self._sending_s = 0.0
        self._paused_s = 0.0

    def rate(self, now: float) -> float | None:
        """Requests per second; None = no limit."""
        if self._peak is None:
            if self.limit is None:
                return None
            if self._began is None:
                self._began = now
            doublings = min((now - self._began) / DOUBLING_S, 60.0)
            return min(self.limit, float(FIRST_RATE * 2.0**doublings))
        left = 1.0 - max(0.0, now - self._recovers_from) / self._recovery_s
        return self._bounded(self._peak * (1.0 - (1.0 - self._kept) * left**3))

    def count(self, answered: int, refused: int, sending_s: float, paused_s: float) -> None:
        """Note requests, and for how long there was something to send and it might be sent, or not in a pause."""
        self._answered += answered
        self._refused += refused
        self._sending_s += sending_s
        self._paused_s += paused_s

    def lower(self, now: float, pause_s: float) -> None:
        """Ask less: the service has refused, and nothing is sent for ``pause_s`` seconds."""
        rate, is_first = self.rate(now), self._peak is None
        borne = self._measured()
        self._lowerings += 1
        if rate is None:
            if borne is not None:
                self._recover(borne, now, pause_s, KEPT)
        elif is_first:
            self._recover(rate, now, pause_s, KEPT_AT_FIRST)
        else:
            peak = rate if borne is None else max(LEAST_BORNE * rate, min(rate, borne / MEAN_OF_RECOVERY))
            self._recover(max(peak, KEPT_OF_BORNE * self._borne / KEPT), now, pause_s, KEPT)
        self._answered, self._refused, self._sending_s, self._paused_s = 0, 0, 0.0, 0.0

    def adopt(self, rate: float, now: float) -> None:
        """Go on from the rate that another pace had come to."""
        self._recover(rate, now, 0.0, KEPT)

    def _measured(self) -> float | None:
        """What the service has answered per second since the last refusal; None if that was too little to say."""
        least, part = MANY_REFUSED
        if self._refused >= max(least, part * (self._answered + self._refused)):
            self._borne = 0.0
        if self._answered < MIN_ANSWERS or self._sending_s <= 0:
            return None
        if self._sending_s + self._paused_s < MIN_MEASURE_S:
            return self._answered / self._sending_s
        # What it bears must do for the pause as well.
        borne = self._answered / (self._sending_s + max(0.0, self._paused_s - RETRY_AFTER_ROUNDING_S))
        self._borne = max(self._borne, borne)
        return borne

    def _recover(self, peak: float, now: float, pause_s: float, kept: float) -> None:
        self._peak, self._kept = self._bounded(peak), kept
        self._recovers_from = now + pause_s
        self._recovery_s = max(
            min(RECOVERY_S, FIRST_RECOVERIES_S * self._lowerings),
            RECOVERY_REQUESTS / self._peak,
            min(RECOVERY_PAUSES * pause_s, MAX_RECOVERY_S),
        )

    def _bounded(self, rate: float) -> float:
        rate = max(rate, LEAST_RATE)
        return rate if self.limit is None else min(rate, self.limit)
