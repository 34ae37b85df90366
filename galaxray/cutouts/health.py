"""Whether a service can be asked at all: pauses that it asks for, and outages."""

from __future__ import annotations

from galaxray.cutouts.grants import Outage
from galaxray.cutouts.limits import MAX_RETRY_AFTER_S, Verdict
from galaxray.schema import Status

__all__ = ["Health"]

MIN_FAILURES_OF_AN_OUTAGE = 10
# Fewer failures in a row say something about the rows, not about the service.


class Health:
    """Pauses and outages of one service. All times are those of one clock that never goes back.

    Parameters
    ----------
    pause_s, max_pause_s : float
        First and longest pause after a refusal, in seconds; Retry-After is obeyed up to `MAX_RETRY_AFTER_S`.
    patience_s : float
        How long nothing but failures is borne before the service is given up, in seconds.
    """

    def __init__(self, *, pause_s: float, max_pause_s: float, patience_s: float) -> None:
        self._pause_s = pause_s
        self._max_pause_s = max_pause_s
        self._patience_s = patience_s
        self._refusals_in_a_row = 0
        self._failures_in_a_row = 0
        self._failing_since = 0.0
        self._last_failure = Verdict.FAILED
        self.resume_at = 0.0
        """When the present pause ends, or the last one ended."""
        self.next_probe: float | None = None
        """When a service that is given up may be asked again; None if it is not given up."""

    @property
    def outage(self) -> Outage | None:
        """Why the service is given up for the moment; None if it is not."""
        if self.next_probe is None:
            return None
        if self._last_failure is Verdict.REFUSED:
            return Outage(
                status=Status.THROTTLED, reason=f"the service has refused every request for {self._patience_s:.0f} s"
            )
        return Outage(status=Status.UNREACHABLE, reason=f"the service has not answered for {self._patience_s:.0f} s")

    def answered(self) -> None:
        """Note that the service works."""
        self._refusals_in_a_row = self._failures_in_a_row = 0
        self.next_probe = None

    def refused(self, now: float, retry_after_s: float | None, *, is_news: bool) -> bool:
        """Pause; return whether this is a new refusal.

        What was in flight when the service began to refuse counts as one refusal, and prolongs the pause only where
        the service asks for that. So does what was sent before the last refusal was known (not ``is_news``).
        """
        is_new = is_news and now >= self.resume_at
        if is_new:
            self._refusals_in_a_row += 1
        if retry_after_s is not None:
            self.pause(now, min(max(retry_after_s, 0.0), MAX_RETRY_AFTER_S))
        elif is_new:
            self.pause(now, min(self._pause_s * 2.0 ** min(self._refusals_in_a_row - 1, 30), self._max_pause_s))
        return is_new

    def pause(self, now: float, pause_s: float) -> None:
        """Let nobody ask for so long."""
        self.resume_at = max(self.resume_at, now + pause_s)

    def failed(self, now: float, count: int, verdict: Verdict) -> None:
        """Note requests without an answer; give the service up if there were only such for too long."""
        if self._failures_in_a_row == 0:
            self._failing_since = now
        self._failures_in_a_row += count
        self._last_failure = verdict
        has_lasted = now - self._failing_since >= self._patience_s
        if has_lasted and self._failures_in_a_row >= MIN_FAILURES_OF_AN_OUTAGE and self.next_probe is None:
            self.next_probe = now + self._max_pause_s
        if self.next_probe is not None:
            self.next_probe = max(self.next_probe, self.resume_at)

    def probe(self, now: float) -> bool:
        """Whether one request may look now if a service that is given up is back; the next only in a while."""
        if self.next_probe is None or now < self.next_probe:
            return False
        self.next_probe = now + self._max_pause_s
        return True
