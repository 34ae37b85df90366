"""Defences that belong to no single part of the library; ``docs/threats.md`` has the rest."""

from __future__ import annotations

import contextlib
import itertools
import resource
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cutout_batches import make_batch, quick_config
from yarl import URL

from galaxray.catalog import open_catalog
from galaxray.config import RunConfig
from galaxray.cutouts import Fetcher
from galaxray.cutouts.replies import TryError, follow
from galaxray.plan import plan_run
from galaxray.runs import Run

SIGNED = "https://bucket.example/cat.csv?X-Amz-Credential=AKIA1&X-Amz-Date={}&X-Amz-Signature={}"


def plan(folder: Path, address: str) -> Run:
    """Plan a run of a local copy of a catalogue, whose configuration has the address that it came from."""
    catalog = folder / "cat.csv"
    catalog.write_text("id,ra,dec\na,1,2\n")
    config = RunConfig(catalog=address, output=str(folder / "run"))
    return plan_run(config, open_catalog(str(catalog)), {}, versions={})


def test_no_record_of_a_run_holds_a_signature(tmp_path: Path) -> None:
    run = plan(tmp_path, SIGNED.format("20261121", "f00ba4"))
    for file in (tmp_path / "run").rglob("*"):
        assert not file.is_file() or b"f00ba4" not in file.read_bytes(), file
    assert run.record["catalog"]["uri"].startswith("https://bucket.example/cat.csv?X-Amz-Credential=…")


def test_a_run_goes_on_when_its_catalogue_is_signed_anew(tmp_path: Path) -> None:
    before = plan(tmp_path, SIGNED.format("20261121", "f00ba4"))
    assert plan(tmp_path, SIGNED.format("20261122", "c0ffee")).run_id == before.run_id


@pytest.mark.parametrize("location", ["//host:99999999999999999999/", "//host:1e999/", "http://[::1/"])
def test_redirects_to_what_is_no_address(location: str) -> None:
    with pytest.raises(TryError, match="redirected"):
        follow(URL("https://service.example/cutout"), location)


class Endless(socketserver.ThreadingTCPServer):
    """Answers every request with a start, and then with the same lines for ever."""

    daemon_threads = True

    def __init__(self, start: bytes, line: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Flood)
        self.start, self.line = start, line
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Flood(socketserver.StreamRequestHandler):
    server: Endless

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            self.request.recv(65536)
            self.wfile.write(self.server.start)
            for number in itertools.count():
                self.wfile.write(self.server.line.replace(b"#", b"%d" % number) * 20)


@contextlib.contextmanager
def endless(start: bytes, line: bytes) -> Iterator[str]:
    with Endless(start, line) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.url
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("start", "line"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-Flood-#: " + b"x" * 4000 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nX-Flood: ", b"x" * 4000),
        (b"HTTP/1.1 200 ", b"OK" * 2000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1;x=" + b"x" * 4000 + b"\r\na\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n", b"x" * 4000),
    ],
    ids=["headers", "header", "reason", "continue", "chunks", "body"],
)
@pytest.mark.timeout(60)
def test_a_server_without_end_costs_one_row_little_memory_and_its_time(start: bytes, line: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (
        endless(start, line) as url,
        Fetcher(quick_config(url, timeout_s=2, max_bytes=10**6, max_attempts=1)) as fetcher,
    ):
        batch = fetcher.fetch(make_batch([150.0]))
    assert batch["status"][0] in ("unreachable", "corrupt")
    assert batch["error"][0].isprintable()
    assert len(batch["error"][0]) <= 200
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
