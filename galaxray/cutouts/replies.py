"""What an HTTP reply means for a row.

=====================================  =================  ============================================
answer                                 status             tries
=====================================  =================  ============================================
200 with a good image                  ok                 1
404, 410                               not_covered        1
429, 503                               throttled          ``max_attempts``; 1 if Retry-After is too long
other 5xx, 408, 425                    unreachable        ``max_attempts``
no connection, time-out, cut body      unreachable        ``max_attempts``
401, 403, 407, 451                     unreachable        1: refused for now, another day it may not be
other 4xx                              corrupt            1: the request itself is at fault
redirect to another host, or too many  unreachable        1
200 (or 204) with an empty body        blank              2
200 with HTML, text, a cut image       corrupt            2: error pages with status 200 come and go
200 with a wrong size, too large       corrupt            1
=====================================  =================  ============================================
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from yarl import URL

from galaxray.cutouts.limits import MAX_RETRY_AFTER_S, Verdict
from galaxray.cutouts.quality import BadImageError
from galaxray.errors import RowError
from galaxray.schema import Status

__all__ = ["REDIRECTS", "Reply", "TryError", "follow", "image_of", "retry_after_s_of", "verdict_of"]

FOREVER = 1_000_000  # as often as ``max_attempts`` allows

REDIRECTS = frozenset({301, 302, 303, 307, 308})
NOT_COVERED = frozenset({404, 410})
THROTTLED = frozenset({429, 503})
MOMENTARY = frozenset({408, 425})
FORBIDDEN = frozenset({401, 403, 407, 451})
GATEWAY = frozenset({502, 504})


class TryError(RowError):
    """One try brought no image.

    Parameters
    ----------
    status : Status
    message : str
    max_tries : int
        After how many tries to give up.
    retry_after_s : float, optional
        The wait that the service asked for, in seconds.
    """

    def __init__(
        self, status: Status, message: str, *, max_tries: int = FOREVER, retry_after_s: float | None = None
    ) -> None:
        super().__init__(status, message)
        self.max_tries = max_tries
        self.retry_after_s = retry_after_s


class Reply(NamedTuple):
    """A whole HTTP reply."""

    code: int
    reason: str
    headers: Mapping[str, str]
    body: bytes | None
    """None if it is too large."""


def image_of(reply: Reply, max_bytes: int) -> bytes:
    """Body of a good reply.

    Parameters
    ----------
    reply : Reply
        No redirect.
    max_bytes : int
        Most bytes, after undoing a Content-Encoding.

    Raises
    ------
    TryError
        If the service has no image for us, or not now.
    """
    code, what = reply.code, f"HTTP {reply.code} {reply.reason}"
    if code == 200:
        body = reply.body
        if body is not None and (encoding := reply.headers.get("Content-Encoding", "identity")) != "identity":
            body = _inflate(body, encoding, max_bytes)
        if body is None:
            message = f"answer of more than {max_bytes:,} bytes (max_bytes)"
            raise TryError(Status.CORRUPT, message, max_tries=1)
        return body
    if code == 204:
        return b""
    if code in NOT_COVERED:
        raise TryError(Status.NOT_COVERED, what, max_tries=1)
    if code in THROTTLED:
        retry_after_s = retry_after_s_of(reply.headers)
        if retry_after_s is not None and retry_after_s > MAX_RETRY_AFTER_S:
            raise TryError(Status.THROTTLED, f"{what}: Retry-After {retry_after_s:.0f} s", max_tries=1)
        raise TryError(Status.THROTTLED, what, retry_after_s=retry_after_s)
    if code >= 500 or code in MOMENTARY:
        raise TryError(Status.UNREACHABLE, what)
    if code in FORBIDDEN:
        raise TryError(Status.UNREACHABLE, what, max_tries=1)
    raise TryError(Status.CORRUPT, what, max_tries=1)


def verdict_of(code: int) -> Verdict:
    """Tell from a status code whether the service works."""
    if code in THROTTLED:
        return Verdict.REFUSED
    # A plain 500 is an application's trouble with one request (Legacy Survey's viewer: a position without data),
    # not a sign that the service is down.
    return Verdict.FAILED if code in GATEWAY or code in FORBIDDEN else Verdict.ANSWERED


def retry_after_s_of(headers: Mapping[str, str]) -> float | None:
    """Read the seconds that a Retry-After header asks for (RFC 9110, section 10.2.3)."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    until = _http_date(value)
    if until is None:
        return None
    now = _http_date(headers.get("Date", "")) or datetime.now(UTC)  # the server's own clock, if it tells the time
    return max(0.0, (until - now).total_seconds())


def _http_date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def follow(target: URL, location: str) -> URL:
    """Find where a redirect leads.

    Raises
    ------
    TryError
        If it leads to another host: no address but the configured one is ever asked.
    """
    try:
        following = target.join(URL(location))
        origin = following.origin()
        place = (origin.scheme, origin.host, origin.port)  # only here yarl sees a port that is no number
    except ValueError:
        raise TryError(Status.UNREACHABLE, f"redirected to {location:.100}", max_tries=1) from None
    is_same = place == (target.scheme, target.host, target.port)
    is_upgrade = (target.scheme, origin.scheme) == ("http", "https") and origin.is_default_port()
    if not (is_same or (is_upgrade and origin.host == target.host)):
        raise TryError(Status.UNREACHABLE, f"redirected to another host: {origin}", max_tries=1)
    return following


def _inflate(body: bytes, encoding: str, limit: int) -> bytes | None:
    """Undo a Content-Encoding that was not asked for; None if the result is too large."""
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        raise TryError(Status.CORRUPT, f"Content-Encoding {encoding:.20} was not asked for", max_tries=1)
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip or zlib, as the header says
    try:
        content = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise BadImageError(f"damaged {encoding} encoding: {error}", momentary=True) from None
    if len(content) > limit:
        return None
    if not inflater.eof:
        raise BadImageError(f"truncated {encoding} encoding", momentary=True)
    return content
