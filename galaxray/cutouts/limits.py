"""Leave to ask a service."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from galaxray.errors import RowError

__all__ = ["MAX_RETRY_AFTER_S", "Limiter", "ServiceDownError", "Verdict"]

MAX_RETRY_AFTER_S = 600.0
"""Longest wait that a service can ask for and gets, in seconds. A row that it sends away for longer is given up."""


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

    async def acquire(self, number: int = 0) -> int:
        """Wait until one request may be sent.

        Parameters
        ----------
        number : int
            Of those who wait, the one with the lowest number comes first; of equals, who came first.

        Returns
        -------
        int
            Version of the limits under which it is sent; `release` wants it back.

        Raises
        ------
        ServiceDownError
            If the service is given up for the moment.
        """

    def release(self, verdict: Verdict, retry_after_s: float | None = None, sent_under: int | None = None) -> None:
        """Report the end of a request that `acquire` gave leave for.

        Parameters
        ----------
        verdict : Verdict
        retry_after_s : float, optional
            The wait that a refusing service asked for, in seconds.
        sent_under : int, optional
            What `acquire` returned for the request: the refusal of one that was sent before the last refusal was known
            tells nothing new.
        """

    @property
    def outage(self) -> str | None:
        """Why the service is given up for the moment; None if it is not."""
