"""A cutout service that does as little as possible: it answers any request with one of a few pictures from memory.

Used by benchmarks/download.py, in a process of its own: ``python static_server.py FOLDER`` prints its address.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path
from typing import cast


class Answerer(asyncio.Protocol):
    """Answers pipelined or single GET requests without looking at them."""

    answers: itertools.cycle[bytes]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._unread = b""

    def data_received(self, data: bytes) -> None:
        *heads, self._unread = (self._unread + data).split(b"\r\n\r\n")
        for head in heads:
            self._transport.write(next(self.answers))
            if b"connection: close" in head.lower():
                self._transport.close()


async def serve(folder: Path) -> None:
    pictures = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    head = "HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n"
    Answerer.answers = itertools.cycle([head.format(len(body)).encode() + body for body in pictures])
    server = await asyncio.get_running_loop().create_server(Answerer, "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:  # comes with Ray Serve; the server should not be what is measured
        from uvloop import run
    except ImportError:
        from asyncio import run
    run(serve(Path(sys.argv[1])))
