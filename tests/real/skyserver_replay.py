"""Serve recorded SkyServer pictures over loopback HTTP, under the addresses of the real service.

All are 200 x 200 pixels, whatever size a request names: so the real service treats sizes that it does not offer.
Run by itself it serves until interrupted, and writes where::

    python tests/real/skyserver_replay.py ../shared/data/e_recorded_responses/skyserver_getjpeg
"""

from __future__ import annotations

import csv
import sys
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


def read_index(folder: Path) -> dict[tuple[str, str], Path]:
    """Recorded pictures by right ascension and declination, as our requests write them."""
    with (folder / "index_dev.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(f"{float(row['ra']):.8f}", f"{float(row['dec']):.8f}"): folder / row["file"] for row in rows}


class Replay(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, pictures: dict[tuple[str, str], Path], *args: object) -> None:
        self._pictures = pictures
        super().__init__(*args)

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        path = self._pictures.get((query.get("ra", ""), query.get("dec", "")))
        if parts.path != "/SkyServerWS/ImgCutout/getjpeg":
            self._answer(400, b"Bad request")
        elif path is None:
            self._answer(404, b"", "NOT FOUND. Requested (ra, dec) is outside the SDSS footprint.")
        else:
            self._answer(200, path.read_bytes())

    def _answer(self, code: int, body: bytes, reason: str | None = None) -> None:
        self.send_response(code, reason)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "image/jpeg")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def make_server(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    return ThreadingHTTPServer(("127.0.0.1", port), partial(Replay, read_index(folder)))


if __name__ == "__main__":
    server = make_server(Path(sys.argv[1]))
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
