"""Ask a service over HTTP, politely, and again where that may help."""

from __future__ import annotations

import asyncio
import itertools
import random
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from galaxray import __version__
from galaxray.config import CutoutConfig
from galaxray.cutouts.answers import Answer, Check, FetchStats
from galaxray.cutouts.limits import Limiter, ServiceDownError, Verdict
from galaxray.cutouts.quality import BadImageError
from galaxray.cutouts.replies import REDIRECTS, Reply, TryError, follow, image_of, retry_after_s_of, verdict_of
from galaxray.errors import ConfigError, RowError
from galaxray.schema import Status

__all__ = ["HttpReader", "user_agent"]

MAX_REDIRECTS = 3
MAX_ERROR_BYTES = 64 * 1024  # an error page is read to its end to keep the connection, but not a longer one
BAD_IMAGE_TRIES = 2


def user_agent(contact: str | None) -> str:
    """Name ourselves to a service, with the user's address if there is one.

    Raises
    ------
    ConfigError
        If the contact holds characters that a header cannot.
    """
    if contact is not None and not (contact.isascii() and contact.isprintable() and not set(contact) & set("();")):
        raise ConfigError(f"cutouts.contact {contact!r}: write an e-mail or web address in plain ASCII")
    return f"galaxray/{__version__} (+https://github.com/galaxray/galaxray{f'; {contact}' if contact else ''})"


class HttpReader:
    """Bring images from one service. Made inside the event loop that uses it.

    Parameters
    ----------
    config : CutoutConfig
    base_url : str
        The service: its host is the only one that is ever asked.
    limiter : Limiter
    check : callable
        Structural check of an image.
    stats : FetchStats
        Where to count.
    """

    def __init__(
        self, config: CutoutConfig, base_url: str, *, limiter: Limiter, check: Check, stats: FetchStats
    ) -> None:
        self._config = config
        self._limiter = limiter
        self._check = check
        self._stats = stats
        self._numbers = itertools.count()
        self._clock = asyncio.get_running_loop().time
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300),  # the limiter limits
            headers={"User-Agent": user_agent(config.contact), "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=config.timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # decompressed here, with a limit
            proxy=_proxy_of(base_url),
        )
        # aiohttp would send a request again by itself after a lost connection, past the limiter and the counts.
        self._session._retry_connection = False

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def read(self, address: str) -> Answer:
        """Bring one image, trying again where that may help.

        Who began first comes first, also with another try: or, at a slow service, all rows would be begun and none
        brought to its end.
        """
        number, attempts = next(self._numbers), 0
        while True:
            attempts += 1
            failure: RowError
            retry_after_s = None
            try:
                body = await self._ask(address, number)
                dimensions = self._check(body)
                return Answer(body, dimensions and dimensions.width, attempts)
            except ServiceDownError as down:
                return Answer.failed(down, attempts - 1)
            except TryError as failed:
                failure, max_tries, retry_after_s = failed, failed.max_tries, failed.retry_after_s
            except BadImageError as bad:
                failure, max_tries = bad, BAD_IMAGE_TRIES if bad.momentary else 1
            if attempts >= min(max_tries, self._config.max_attempts):
                return Answer.failed(failure, attempts)
            await asyncio.sleep(self._backoff_s(attempts, retry_after_s))
            self._stats.retries += 1

    def _backoff_s(self, attempts: int, retry_after_s: float | None) -> float:
        """Wait before the next try: Retry-After, or exponential with full jitter."""
        longest_s, first_s = self._config.max_backoff_s, self._config.backoff_s
        if retry_after_s is not None:
            return retry_after_s + random.uniform(0, first_s)
        return random.uniform(0, min(longest_s, first_s * 2.0 ** min(attempts - 1, 30)))

    async def _ask(self, address: str, number: int) -> bytes:
        """One try: a request and what it is redirected to."""
        target = URL(address, encoded=True)
        for _ in range(MAX_REDIRECTS + 1):
            reply = await self._exchange(target, number)
            if reply.code not in REDIRECTS:
                return image_of(reply, self._config.max_bytes)
            target = follow(target, reply.headers.get("Location", ""))
        raise TryError(Status.UNREACHABLE, f"more than {MAX_REDIRECTS} redirects", max_tries=1)

    async def _exchange(self, target: URL, number: int) -> Reply:
        """Send one request when the limiter gives leave, and read the answer."""
        stats = self._stats
        asked = self._clock()
        sent_under = await self._limiter.acquire(number)
        stats.limiter_wait_s += self._clock() - asked
        stats.requests += 1
        verdict, retry_after_s = Verdict.FAILED, None
        try:
            async with self._session.get(target, allow_redirects=False) as response:
                body = await self._read_body(response)
                reply = Reply(response.status, response.reason or "", response.headers, body)
            verdict = verdict_of(reply.code)
            retry_after_s = retry_after_s_of(reply.headers) if verdict is Verdict.REFUSED else None
            stats.answers[str(reply.code)] += 1
            return reply
        except TimeoutError:
            stats.answers["timeout"] += 1
            message = f"timeout: no whole answer in {self._config.timeout_s:g} s"
            raise TryError(Status.UNREACHABLE, message) from None
        except (aiohttp.ClientError, OSError) as error:
            stats.answers["disconnected"] += 1
            raise TryError(Status.UNREACHABLE, f"{type(error).__name__}: {error}") from None
        finally:
            self._limiter.release(verdict, retry_after_s, sent_under)

    async def _read_body(self, response: aiohttp.ClientResponse) -> bytes | None:
        limit = self._config.max_bytes if response.status == 200 else MAX_ERROR_BYTES
        length = response.content_length
        if length is not None and length <= limit:
            body = await response.read()
            self._stats.bytes += len(body)
            return body
        chunks: list[bytes] = []
        size = 0
        while length is None:
            chunk = await response.content.readany()
            if not chunk:
                return b"".join(chunks)
            chunks.append(chunk)
            size += len(chunk)
            self._stats.bytes += len(chunk)
            if size > limit:
                break
        response.close()  # or the rest would be read before the connection is used again
        return None


def _proxy_of(base_url: str) -> str | None:
    """Find the proxy that the environment names for a service (clusters without a way out have one)."""
    parts = urlsplit(base_url)
    if proxy_bypass(parts.hostname or ""):
        return None
    return getproxies().get(parts.scheme)
