"""Catalogues in S3 (a real server on loopback) and behind http (another one)."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from astropy.table import Table

from galaxray.catalog import download, open_catalog
from galaxray.errors import CatalogError

CSV = "objid,ra,dec\n" + "".join(f"{587727178986356823 + n},{n},0.5\n" for n in range(300))


def identifiers(uri: str, **arguments: object) -> list[str]:
    catalog = open_catalog(uri, **arguments)
    return [value for piece in catalog.slices(rows=100) for value in piece["object_id"].to_pylist()]


EXPECTED = [str(587727178986356823 + n) for n in range(300)]


class Server(ThreadingHTTPServer):
    """Serves files from memory, and faults."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.faults: list[str] = []
        """What happens to the next requests."""
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.headers["User-Agent"])
        content = self.server.files.get(self.path)
        fault = self.server.faults.pop(0) if self.server.faults else None
        if self.path in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[self.path])
            self.end_headers()
        elif fault == "drip":
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                for byte in content or b"":
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.02)
        elif fault == "redirect":
            self.send_response(302)
            self.send_header("Location", f"{self.server.url}{self.path}?moved")
            self.server.files[f"{self.path}?moved"] = content or b""
            self.end_headers()
        elif fault in ("429", "503"):
            self.send_error(int(fault))
        elif content is None:
            self.send_error(404)
        else:
            self.send_response(200)
            if fault != "no length":
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("fault", [None, "redirect", "503", "429", "cut", "no length"])
def test_http(server: Server, fault: str | None, tmp_path: Path) -> None:
    server.files["/c.csv.gz"] = gzip.compress(CSV.encode())
    server.faults = [fault] if fault else []
    catalog = open_catalog(f"{server.url}/c.csv.gz")
    assert [value for piece in catalog.slices() for value in piece["object_id"].to_pylist()] == EXPECTED
    assert len(server.asked) == (1 if fault in (None, "no length") else 2)
    assert server.asked[0].startswith("galaxray/")
    assert len(list(tmp_path.iterdir())) == 1
    fingerprint = catalog.fingerprint()
    del catalog
    assert not list(tmp_path.iterdir())  # the temporary file goes with the catalogue
    assert open_catalog(f"{server.url}/c.csv.gz").fingerprint() == fingerprint


@pytest.mark.parametrize(
    ("path", "faults", "message"),
    [
        ("/nothing.csv", [], r"/nothing\.csv: the server answers 404 Not Found$"),
        ("/c.csv", ["503"] * 9, r"the server answers 503 Service Unavailable \(4 attempts\)"),
        ("/c.csv", ["cut"] * 9, r"the server broke off after 2\d{3} of 6\d{3} bytes|after \d+ of \d+ bytes"),
        ("/page.html", [], r"/page\.html: no catalogue but an HTML page"),
        ("/empty.csv", [], r"the file is empty"),
    ],
)
def test_http_that_fails(server: Server, path: str, faults: list[str], message: str, tmp_path: Path) -> None:
    server.files |= {"/c.csv": CSV.encode(), "/page.html": b"<html>Log in", "/empty.csv": b""}
    server.faults = faults
    with pytest.raises(CatalogError, match=message):
        open_catalog(server.url + path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fault", [None, "no length"])
def test_http_file_that_is_too_large(server: Server, fault: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 1000)
    server.files["/c.csv"] = CSV.encode()
    server.faults = [fault] if fault else []
    with pytest.raises(CatalogError, match=r"bytes or more, 1000 bytes are the limit; download it yourself"):
        open_catalog(f"{server.url}/c.csv")


def test_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.001)
    with pytest.raises(CatalogError, match=r"cannot be reached: .*refused.* \(4 attempts\)"):
        open_catalog("http://127.0.0.1:9/c.csv")


def test_s3(s3_bucket: str, tmp_path: Path) -> None:
    filesystem = s3fs.S3FileSystem(skip_instance_cache=True)
    ids = np.array([int(value) for value in EXPECTED])
    columns = {"objid": ids, "ra": np.arange(300.0), "dec": np.zeros(300)}
    Table(columns).write(tmp_path / "c.fits")
    for n in range(3):
        part = {name: values[n * 100 : n * 100 + 100] for name, values in columns.items()}
        pq.write_table(pa.table(part), tmp_path / f"part-{n}.parquet")
        filesystem.put_file(str(tmp_path / f"part-{n}.parquet"), f"{s3_bucket}/survey/part-{n}.parquet")
    filesystem.put_file(str(tmp_path / "c.fits"), f"{s3_bucket}/c.fits")
    filesystem.pipe_file(f"{s3_bucket}/c.csv.gz", gzip.compress(CSV.encode()))
    for name in ("survey", "survey/", "c.fits", "c.csv.gz"):
        assert identifiers(f"{s3_bucket}/{name}") == EXPECTED
    assert open_catalog(f"{s3_bucket}/survey").num_rows == 300


def test_s3_fingerprint(s3_bucket: str) -> None:
    filesystem = s3fs.S3FileSystem(skip_instance_cache=True)
    filesystem.pipe_file(f"{s3_bucket}/c.csv", CSV.encode())
    first = open_catalog(f"{s3_bucket}/c.csv").fingerprint()
    assert open_catalog(f"{s3_bucket}/c.csv").fingerprint() == first
    filesystem.pipe_file(f"{s3_bucket}/c.csv", CSV.replace("0.5", "0.7").encode())
    assert open_catalog(f"{s3_bucket}/c.csv").fingerprint() != first


def test_s3_that_is_not_there(s3_bucket: str) -> None:
    for uri in (f"{s3_bucket}/nothing.csv", "s3://no-such-bucket-of-ours/c.csv"):
        with pytest.raises(CatalogError, match=r"no such file$"):
            open_catalog(uri)


def test_s3_without_credentials(s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    filesystem = s3fs.S3FileSystem(skip_instance_cache=True)
    filesystem.pipe_file(f"{s3_bucket}/private.csv", CSV.encode())
    filesystem.pipe_file(f"{s3_bucket}/public.csv", CSV.encode(), ACL="public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    assert identifiers(f"{s3_bucket}/public.csv") == EXPECTED
    with pytest.raises(CatalogError, match=r"private\.csv: permission denied \(no AWS credentials were found\)"):
        open_catalog(f"{s3_bucket}/private.csv")


def test_s3_storage_options_win(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    s3fs.S3FileSystem(skip_instance_cache=True).pipe_file(f"{s3_bucket}/c.csv", CSV.encode())
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    options = {"key": "test", "secret": "test", "endpoint_url": endpoint}
    assert identifiers(f"{s3_bucket}/c.csv", storage_options=options) == EXPECTED


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://169.254.169.254/latest/meta-data/", "inside this network"),
        ("http://localhost:1/", "inside this network"),
        ("http://[::1]:1/", "inside this network"),
        ("http://2130706433:1/", "inside this network"),  # 127.0.0.1 in one number
        ("ftp://example.org/c.csv", "not followed"),
        ("file:///etc/passwd", "not allowed"),
    ],
)
def test_no_redirect_leads_behind_the_firewall(
    server: Server, location: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server, which is on loopback, stands for one out there."""
    real = download._is_inside
    monkeypatch.setattr(download, "_is_inside", lambda url: not url.startswith(server.url) and real(url))
    server.redirects["/c.csv"] = location
    with pytest.raises(CatalogError, match=reason):
        open_catalog(f"{server.url}/c.csv")


def test_a_server_inside_may_redirect_inside(server: Server) -> None:
    server.files["/other.csv"] = CSV.encode()
    server.redirects["/c.csv"] = server.url.replace("127.0.0.1", "localhost") + "/other.csv"
    assert identifiers(f"{server.url}/c.csv") == EXPECTED


def test_no_redirect_takes_the_encryption_away() -> None:
    handler = download._Redirects("https://example.org/c.csv")
    request = urllib.request.Request("https://example.org/c.csv")
    with pytest.raises(CatalogError, match="not followed from https"):
        handler.redirect_request(request, io.BytesIO(), 302, "", HTTPMessage(), "http://example.org/c.csv")


def test_a_server_that_sends_drop_by_drop_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PATIENCE_S", 0.3)
    server.files["/c.csv"] = CSV.encode() * 100
    server.faults = ["drip"]
    with pytest.raises(CatalogError, match="too slow"):
        open_catalog(f"{server.url}/c.csv")


def test_passwords_are_in_no_message(server: Server) -> None:
    with pytest.raises(CatalogError, match="leave user and password out") as caught:
        open_catalog(server.url.replace("//", "//me:pa55@") + "/c.csv")
    assert "pa55" not in str(caught.value)
    with pytest.raises(CatalogError, match="404") as caught:
        open_catalog(f"{server.url}/c.csv?X-Amz-Signature=f00")
    assert "f00" not in str(caught.value)
    server.files["/c.csv?X-Amz-Signature=f00"] = CSV.encode()
    catalog = open_catalog(f"{server.url}/c.csv?X-Amz-Signature=f00")
    assert "f00" not in catalog.describe() + catalog.uri
