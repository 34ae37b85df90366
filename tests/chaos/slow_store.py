"""An S3 server in a process of its own, behind a network that can be made to stall in the middle of a put."""

from __future__ import annotations

import asyncio
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.request import urlopen

HELD_BACK_BYTES = 100


class SlowStore:
    """Passes bytes on to a server, until :meth:`hold_next_put` holds one request's last bytes back.

    Parameters
    ----------
    server_port : int
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._armed = False
        self._held: queue.Queue[tuple[str, int]] = queue.Queue()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._connect, "127.0.0.1", 0, backlog=1024), self._loop
        ).result()
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def hold_next_put(self, timeout_s: float) -> tuple[str, int]:
        """Stall the next put of a unit; returns its key and the port that its client sends from."""
        self._armed = True
        return self._held.get(timeout=timeout_s)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        back = asyncio.create_task(self._pass_on(upstream_reader, writer))
        try:
            await self._send(reader, upstream_writer, writer.get_extra_info("peername")[1])
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            back.cancel()
            writer.transport.abort()
            upstream_writer.transport.abort()

    async def _send(self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, port: int) -> None:
        while data := await reader.read(2**16):
            target = data.split(b" ", 2)[1].decode() if data.startswith(b"PUT /") else ""
            if self._armed and "/annotations/unit-" in target:
                self._armed = False
                upstream.write(data[:-HELD_BACK_BYTES])
                await upstream.drain()
                self._held.put((target.lstrip("/").partition("?")[0], port))
                while await reader.read(2**16):  # until the client is gone
                    pass
                return
            upstream.write(data)
            await upstream.drain()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()
            writer.close()


@contextmanager
def slow_store() -> Iterator[SlowStore]:
    """Start the server and the network before it; end both with the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < until
                time.sleep(0.2)
        store = SlowStore(port)
        try:
            yield store
        finally:
            store.close()
    finally:
        server.kill()
        server.wait()
