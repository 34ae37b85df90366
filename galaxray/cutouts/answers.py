"""What comes back when an image is asked for, and who brings it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from galaxray.cutouts.quality import Dimensions
from galaxray.errors import RowError
from galaxray.schema import Status

__all__ = ["Answer", "Check", "FetchStats", "Reader"]

MAX_ERROR_CHARS = 200

Check = Callable[[bytes], Dimensions | None]
"""Structural check of an image; raises ``BadImageError``. None for kinds of files that it does not know."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of the request for one row's image."""

    body: bytes | None
    """The image's file; None if there is none to be trusted."""
    width: int | None = None
    """Width of the image in pixels, where its header was read."""
    attempts: int = 0
    """How often it was asked for."""
    status: Status = Status.OK
    error: str | None = None
    """Why there is no image."""

    @classmethod
    def failed(cls, failure: RowError, attempts: int) -> Answer:
        """Turn a failure into the answer that stands for it."""
        # A server's own words are in here: one line, nothing unprintable.
        text = "".join(char if char.isprintable() else " " for char in str(failure))
        return cls(None, None, attempts, failure.status, " ".join(text.split())[:MAX_ERROR_CHARS])


class Reader(Protocol):
    """Brings the images at addresses; used from one event loop."""

    async def read(self, address: str) -> Answer:
        """Bring one image; whatever happens is in the answer."""

    async def close(self) -> None:
        """Give back connections and threads."""


@dataclass
class FetchStats:
    """What a fetcher has done so far."""

    requests: int = 0
    """Requests sent (files read)."""
    bytes: int = 0
    """Bytes of all bodies that came back."""
    answers: Counter[str] = field(default_factory=Counter)
    """Requests by HTTP status code, or ``timeout``, ``disconnected``; files by ``read``, ``failed``."""
    retries: int = 0
    """Requests that were not the first for their row."""
    cached: int = 0
    """Rows answered by the cache folder."""
    limiter_wait_s: float = 0.0
    """Seconds that requests waited for their turn, summed over all requests."""
    outage: str | None = None
    """Why the service is given up for the moment; None if it is not."""
