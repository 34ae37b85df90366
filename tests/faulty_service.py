"""A cutout service on the loopback interface with every fault that real ones have.

What happens to a request is decided by a function of the request, so that a test can say "the second try of this
galaxy is cut short" and mean it. It speaks HTTP byte by byte: most of these faults no web framework will commit.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Ask:
    """One request."""

    target: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    attempt: int
    """How often this target was asked for, with this one."""
    time: float
    """time.monotonic() at its arrival."""

    @property
    def size(self) -> int:
        return int(self.query.get("size", self.query.get("width", 64)))


Behaviour = Callable[[Ask], str]
"""Name of what happens to a request: a key of `FAULTS`, with an argument after a colon where it takes one."""


class FaultyService:
    """Serves cutouts from a thread of its own until closed.

    Parameters
    ----------
    behaviour : callable
        What happens to each request; everything is well where left out.

    Attributes
    ----------
    asks : list of Ask
        All requests so far.
    peak_in_flight : int
        Most requests that were open at the same time.
    connections : int
        Connections opened so far.
    """

    def __init__(self, behaviour: Behaviour = lambda ask: "ok") -> None:
        self.behaviour = behaviour
        self.asks: list[Ask] = []
        self.peak_in_flight = 0
        self.connections = 0
        self._in_flight = 0
        self._counts: Counter[str] = Counter()
        self._connections: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024), self._loop
        ).result()
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _stop(self) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.connections += 1
        try:
            while await self._serve_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        target = head[0].split(" ")[1]
        self._counts[target] += 1
        parts = urlsplit(target)
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        ask = Ask(target, parts.path, dict(parse_qsl(parts.query)), headers, self._counts[target], time.monotonic())
        self.asks.append(ask)
        self._in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self._in_flight)
        try:
            name, _, argument = self.behaviour(ask).partition(":")
            keeps_open = await FAULTS[name](ask, writer, argument)
            await writer.drain()
            return keeps_open
        finally:
            self._in_flight -= 1


def reply(code: int, body: bytes, *, kind: str = "image/jpeg", length: int | None = None, **headers: str) -> bytes:
    """Bytes of a reply; ``length`` lies about the body's, and an underscore in a header's name stands for a dash."""
    lines = [f"HTTP/1.1 {code} {REASONS.get(code, 'Whatever')}", f"Content-Type: {kind}"]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


REASONS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 429: "Too Many Requests", 500: "Oh no"}


@lru_cache
def jpeg(size: int, value: int | None = None) -> bytes:
    """A JPEG of a round blob on noise, or of one grey value."""
    if value is not None:
        pixels = np.full((size, size, 3), value, dtype=np.uint8)
    else:
        y, x = np.mgrid[:size, :size] - size / 2
        blob = 200 * np.exp(-(x**2 + y**2) / (0.05 * size**2))
        noise = np.random.default_rng(size).integers(0, 40, (size, size, 3))
        pixels = np.clip(blob[..., None] + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def picture(ask: Ask) -> bytes:
    """The image for a request: another one for every address, by a comment in the file."""
    comment = ask.target.encode()
    whole = jpeg(ask.size)
    return whole[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + whole[2:]


@lru_cache
def png(size: int) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpeg(size))).save(buffer, "PNG")
    return buffer.getvalue()


@lru_cache
def other_image(size: int, file_format: str) -> bytes:
    """A good image of a kind that nobody asked for."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpeg(size))).save(buffer, file_format)
    return buffer.getvalue()


def png_bomb(side: int = 60_000) -> bytes:
    """A well-formed PNG whose header promises 3.6 gigapixels, in a few hundred bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10_000)))
        + chunk(b"IEND", b"")
    )


def fits(size: int, bands: int = 3) -> bytes:
    """A FITS cutout as the Legacy Survey viewer writes them."""
    cards = ["SIMPLE  =                    T", "BITPIX  =                  -32", "NAXIS   =                    3"]
    cards += [f"NAXIS{axis}  = {length:20d} / axis" for axis, length in enumerate((size, size, bands), start=1)]
    header = "".join(card.ljust(80) for card in [*cards, "END"]).ljust(2880).encode()
    values = np.random.default_rng(size).normal(0, 0.01, (bands, size, size)).astype(">f4").tobytes()
    return header + values + bytes(-len(values) % 2880)


def _plain(make: Callable[[Ask, str], bytes], keeps_open: bool = True) -> Callable[..., Awaitable[bool]]:
    async def serve(ask: Ask, writer: asyncio.StreamWriter, argument: str) -> bool:
        writer.write(make(ask, argument))
        return keeps_open

    return serve


async def _hang(ask: Ask, writer: asyncio.StreamWriter, argument: str) -> bool:
    await asyncio.sleep(float(argument or 3600))
    return False


async def _hang_in_the_body(ask: Ask, writer: asyncio.StreamWriter, argument: str) -> bool:
    whole = reply(200, picture(ask))
    writer.write(whole[: len(whole) // 2])
    return await _hang(ask, writer, argument)


async def _slow(ask: Ask, writer: asyncio.StreamWriter, argument: str) -> bool:
    await asyncio.sleep(float(argument))
    writer.write(reply(200, picture(ask)))
    return True


async def _drip(ask: Ask, writer: asyncio.StreamWriter, argument: str) -> bool:
    for byte in reply(200, picture(ask)):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(float(argument or 0.05))
    return True


async def _reset(ask: Ask, writer: asyncio.StreamWriter, argument: str) -> bool:
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


async def _endless(ask: Ask, writer: asyncio.StreamWriter, argument: str) -> bool:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        await writer.drain()


def _chunked(body: bytes, *, ends: bool) -> bytes:
    half = len(body) // 2
    parts = [body[:half], body[half:]] if ends else [body[:half]]
    chunks = b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in parts)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + (b"0\r\n\r\n" if ends else b"")


def _redirect(ask: Ask, argument: str) -> bytes:
    return reply(302, b"", Location=argument or ask.target)


PAGE = b"<!DOCTYPE html><html><body>We are sorry, the service is busy.</body></html>"

FAULTS: dict[str, Callable[[Ask, asyncio.StreamWriter, str], Awaitable[bool]]] = {
    "ok": _plain(lambda ask, _: reply(200, picture(ask))),
    "png": _plain(lambda ask, _: reply(200, png(ask.size), kind="image/png")),
    "fits": _plain(lambda ask, _: reply(200, fits(ask.size), kind="image/fits")),
    "chunked": _plain(lambda ask, _: _chunked(picture(ask), ends=True)),
    "gzip": _plain(lambda ask, _: reply(200, gzip.compress(picture(ask)), Content_Encoding="gzip")),
    "slow": _slow,
    "code": _plain(lambda ask, code: reply(int(code), PAGE, kind="text/html")),
    # Throttled: Retry-After in seconds, or as a date by a clock that is a day ahead
    "429": _plain(lambda ask, seconds: reply(429, PAGE, **({"Retry_After": seconds} if seconds else {}))),
    "503": _plain(lambda ask, seconds: reply(503, PAGE, **({"Retry_After": seconds} if seconds else {}))),
    "429-date": _plain(
        lambda ask, seconds: reply(
            429,
            PAGE,
            Date=formatdate(time.time() + 86400, usegmt=True),
            Retry_After=formatdate(time.time() + 86400 + float(seconds), usegmt=True),
        )
    ),
    # Truncated: by the transport (the first three, of which the last leaves no trace), or at the source
    "cut-length": _plain(lambda ask, _: reply(200, picture(ask)[:-500], length=len(picture(ask))), keeps_open=False),
    "cut-chunked": _plain(lambda ask, _: _chunked(picture(ask), ends=False), keeps_open=False),
    "cut-close": _plain(lambda ask, _: b"HTTP/1.1 200 OK\r\n\r\n" + picture(ask)[:-500], keeps_open=False),
    "cut-source": _plain(lambda ask, _: reply(200, picture(ask)[:-500])),
    "html": _plain(lambda ask, _: reply(200, PAGE, kind="text/html")),
    "gif": _plain(lambda ask, _: reply(200, other_image(ask.size, "GIF"), kind="image/gif")),
    "text": _plain(lambda ask, _: reply(200, b"no overlap", kind="image/jpeg")),
    "empty": _plain(lambda ask, _: reply(200, b"")),
    "black": _plain(lambda ask, _: reply(200, jpeg(ask.size, 0))),
    "constant": _plain(lambda ask, _: reply(200, jpeg(ask.size, 77))),
    "wrong-size": _plain(lambda ask, _: reply(200, jpeg(ask.size * 2))),
    "bomb": _plain(lambda ask, _: reply(200, png_bomb(), kind="image/png")),
    "gzip-bomb": _plain(lambda ask, n: reply(200, gzip.compress(bytes(int(n or 10**8))), Content_Encoding="gzip")),
    "huge-length": _plain(lambda ask, _: reply(200, picture(ask), length=10**12)),
    "endless": _endless,
    "hang": _hang,
    "hang-body": _hang_in_the_body,
    "drip": _drip,
    "reset": _reset,
    "close": _plain(lambda ask, _: b"", keeps_open=False),
    "garbage": _plain(lambda ask, _: b"\x00\x01\x02 this is no HTTP\r\n\r\n", keeps_open=False),
    "redirect": _plain(_redirect),
}
