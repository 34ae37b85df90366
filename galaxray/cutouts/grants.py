"""What a governor and its clients tell each other, and what a governor shows to those who watch."""

from __future__ import annotations

from dataclasses import dataclass

from galaxray.schema import Status

__all__ = ["LEASE_S", "Grant", "Outage", "Report", "Snapshot"]

LEASE_S = 4.0
"""How long a grant is good, in seconds: a client that hears nothing more sends nothing more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a client holds, wants and has met since its last report."""

    client: str
    """Its name; no two are the same."""
    held: int
    """Requests in flight."""
    waiting: int
    """Requests that wait."""
    turns: int = 0
    """Turns that it was granted and that have not come yet."""
    answered: int = 0
    failed: int = 0
    refused: int = 0
    """Requests that have ended since the last report, by how."""
    refused_version: int | None = None
    """Version of the pace under which the newest of the refused ones was sent; None = the present one."""
    retry_after_s: float | None = None
    """Longest wait that they were asked for, in seconds."""
    version: int = 0
    rate: float | None = None
    pause_s: float = 0.0
    """Version, rate and what is left of the pause as last granted: the successor of a lost governor goes on there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """Why a service is given up for the moment."""

    status: Status
    """What becomes of a row that is not asked for."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a client may do for the next `LEASE_S`, or until the next grant."""

    in_flight: int
    """Most requests in flight."""
    turns: tuple[float, ...] | None
    """When to send one request each, in seconds from now; None = whenever there is room."""
    pause_s: float
    """Nothing may be sent for so many seconds."""
    version: int
    """Counts the refusals that lowered the pace."""
    rate: float | None
    """Requests per second of all clients together; None = no limit."""
    outage: Outage | None
    """Set if the service is given up: who has no turn now is not to wait for one."""
    next_report_s: float
    """When to report again, in seconds from now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of a governor."""

    requests_per_s: float | None
    """Rate at which the service is asked; None = no limit."""
    clients: int
    """Fetchers that are at work."""
    in_flight: int
    waiting: int
    """Requests, as the clients last reported."""
    paused_s: float
    """What is left of a pause, in seconds."""
    answered: int
    failed: int
    refused: int
    """Requests so far, by how they ended."""
    outage: str | None
    """Why the service is given up for the moment; None if it is not."""
