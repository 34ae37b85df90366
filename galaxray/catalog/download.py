"""Download a catalogue over http(s) to a temporary file."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import shutil
import socket
import tempfile
import time
import urllib.error
import urllib.request
import weakref
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, BinaryIO
from urllib.parse import urlsplit

from galaxray import __version__
from galaxray.errors import CatalogError

__all__ = ["Download", "download"]

MAX_BYTES = 32 * 2**30
"""Largest catalogue that is downloaded."""
TIMEOUT_S = 60.0
ATTEMPTS = 4
FIRST_WAIT_S = 1.0
PATIENCE_S = 120.0
MIN_BYTES_PER_S = 1000
"""A server that sends less on average, after :data:`PATIENCE_S`, is given up: by drops it would take for ever."""
_CHUNK_BYTES = 2**20
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


class Download:
    """A downloaded file, removed together with this object or at the end of the process.

    Attributes
    ----------
    path : str
    sha256 : str
        Hex digest of the content.
    """

    def __init__(self, path: str, sha256: str) -> None:
        self.path = path
        self.sha256 = sha256
        self._removal = weakref.finalize(self, _remove, path)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to another host (archives do that), but not to where only this machine can go.

    A server out there must not make us ask what is behind the firewall: a cloud's metadata service, a database.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._starts_inside = _is_inside(url)

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        allowed = ("https",) if req.full_url.startswith("https:") else ("http", "https")
        if urlsplit(newurl).scheme not in allowed:
            raise CatalogError(f"{self._url}: redirected to {newurl}, which is not followed from {req.type}")
        if not self._starts_inside and _is_inside(newurl):
            raise CatalogError(f"{self._url}: redirected to {newurl}, which is inside this network")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_inside(url: str) -> bool:
    """Whether a host has an address that is not of the public internet; of one that has no address, a proxy decides."""
    try:
        found = socket.getaddrinfo(urlsplit(url).hostname, None)
    except (OSError, UnicodeError):
        return False
    return any(not ipaddress.ip_address(address[4][0]).is_global for address in found)


class _TransferError(Exception):
    """The transfer failed in a way that may pass."""


def download(url: str) -> Download:
    """Download a file, trying again after faults that may pass.

    Raises
    ------
    CatalogError
        If the server refuses, cannot be reached, breaks off again and again, or sends more than :data:`MAX_BYTES`
        or more than the disk holds.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise CatalogError(f"{url}: {error}") from error
    if parts.username is not None:
        raise CatalogError(f"{url}: leave user and password out of the address; download it yourself and give the path")
    wait_s = FIRST_WAIT_S
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _download_once(url)
        except _TransferError as error:
            if attempt == ATTEMPTS:
                raise CatalogError(f"{url}: {error} ({ATTEMPTS} attempts)") from error
        time.sleep(wait_s)
        wait_s *= 2
    raise AssertionError("unreachable")


def _download_once(url: str) -> Download:
    handle, path = tempfile.mkstemp(prefix="galaxray-catalog-")
    try:
        with os.fdopen(handle, "wb") as target:
            return Download(path, _transfer(url, target))
    except BaseException:
        _remove(path)
        raise


def _transfer(url: str, target: BinaryIO) -> str:
    """Write what the server sends to ``target``; return its SHA-256."""
    request = urllib.request.Request(url, headers={"User-Agent": f"galaxray/{__version__}"})
    opener = urllib.request.build_opener(_Redirects(url))
    try:
        with opener.open(request, timeout=TIMEOUT_S) as response:
            return _copy(url, response, target)
    except urllib.error.HTTPError as error:
        with error:
            answer = f"the server answers {error.code} {error.reason}"
        if error.code in _TRANSIENT:
            raise _TransferError(answer) from error
        raise CatalogError(f"{url}: {answer}") from error
    except urllib.error.URLError as error:
        raise _TransferError(f"cannot be reached: {error.reason}") from error
    except (HTTPException, TimeoutError, ConnectionError) as error:
        raise _TransferError(f"the transfer failed: {str(error) or type(error).__name__}") from error
    except (OSError, ValueError) as error:  # a full disk, an address that is none
        raise CatalogError(f"{url}: {error}") from error


def _copy(url: str, response: HTTPResponse, target: BinaryIO) -> str:
    length = response.headers.get("Content-Length", "")
    expected = int(length) if length.isdigit() else 0
    free = shutil.disk_usage(tempfile.gettempdir()).free
    digest = hashlib.sha256()
    received = 0
    began = time.monotonic()
    _require_room(url, expected, free)
    while chunk := response.read1(_CHUNK_BYTES):  # what has come, however little: read() would wait for all of it
        received += len(chunk)
        elapsed_s = time.monotonic() - began
        if elapsed_s > PATIENCE_S and received < MIN_BYTES_PER_S * elapsed_s:
            raise CatalogError(f"{url}: the server sent {received} bytes in {elapsed_s:.0f} s; too slow to wait for")
        _require_room(url, received, free)
        digest.update(chunk)
        target.write(chunk)
    if received < expected:  # http.client keeps silent about it
        raise _TransferError(f"the server broke off after {received} of {expected} bytes")
    return digest.hexdigest()


def _require_room(url: str, size: int, free: int) -> None:
    if size > min(MAX_BYTES, free):
        limit = f"{MAX_BYTES} bytes are the limit" if free >= MAX_BYTES else f"{free} bytes are free on the disk"
        raise CatalogError(f"{url}: {size} bytes or more, {limit}; download it yourself and give the path")


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        Path(path).unlink()
