"""Images in files: on a disk that all workers see, or in S3."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import re
import stat
import string
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

from galaxray.config import CutoutConfig
from galaxray.cutouts.answers import Answer, Check, FetchStats
from galaxray.cutouts.health import Health
from galaxray.cutouts.limits import ServiceDownError, Verdict
from galaxray.errors import ConfigError, RowError
from galaxray.s3 import s3_reader
from galaxray.schema import Status

__all__ = ["FileReader", "FileSource"]

TEMPLATE_FIELDS = ("object_id", "path", "row_index", "ra_deg", "dec_deg")
# A width of millions, a character by its number or a field within a field fail for some rows only, or ask for memory.
FORMAT_SPEC = re.compile(r"(.?[<>=^])?[ +-]?0?[0-9]{0,3}[,_]?(\.[0-9]{1,3})?[bdeEfFgGosxX%]?")
NO_SUCH_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})
S3 = "s3://"


class FileSource:
    """Paths from the catalogue's path column, or from a template that is filled with a row's values.

    What a catalogue says can not lead out of the template's folder (its text before the first field, to the last
    ``/``): an ``object_id`` of ``../../etc/passwd`` has no image.
    """

    base_url = None

    def __init__(self, config: CutoutConfig) -> None:
        self._template = config.path_template
        if self._template is None:
            self.required_columns = frozenset({"path"})
            return
        self._fields = _fields_of(self._template)
        self.required_columns = frozenset(self._fields)
        self._root = _root_of(self._template)

    def locate(self, row: Mapping[str, Any], pixel_scale_arcsec: float) -> str:
        """Path of the image of one row; see `CutoutSource.locate`."""
        if self._template is None:
            path = row.get("path")
            if not path:
                raise RowError(Status.NOT_COVERED, "no path in the catalogue")
            if "://" in path and not path.startswith(S3):
                raise RowError(Status.NOT_COVERED, f"source files reads paths and s3://, not {path:.100}")
            return str(path)
        values = {name: row.get(name) for name in self._fields}
        if None in values.values():
            missing = next(name for name, value in values.items() if value is None)
            raise RowError(Status.NOT_COVERED, f"no {missing} to fill path_template with")
        try:
            path = self._template.format(**values)
        except (ValueError, TypeError, OverflowError) as error:
            raise RowError(Status.NOT_COVERED, f"path_template cannot be filled: {error}") from None
        if not self._is_inside(path):
            raise RowError(Status.NOT_COVERED, f"{path:.100} leads out of the folder of path_template")
        return path

    def _is_inside(self, path: str) -> bool:
        inner = path[len(self._root) :]
        leads_elsewhere = not self._root and (inner.startswith("/") or "://" in inner)
        # Not resolved: "link/.." would lead out where a link does, and links are the user's own.
        return path.startswith(self._root) and not leads_elsewhere and ".." not in inner.split("/")


def _fields_of(template: str) -> tuple[str, ...]:
    try:
        parts = [(name, spec) for _, name, spec, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ConfigError(f"cutouts.path_template {template!r}: {error}") from None
    fields = [name for name, _ in parts]
    unknown = [name for name in fields if name not in TEMPLATE_FIELDS]
    if unknown or not fields:
        found = f"{{{unknown[0]}}} is none of them" if unknown else "it has no field"
        raise ConfigError(
            f"cutouts.path_template {template!r}: {found}; the fields are "
            + ", ".join(f"{{{name}}}" for name in TEMPLATE_FIELDS)
        )
    for name, spec in parts:
        if not FORMAT_SPEC.fullmatch(spec or ""):
            raise ConfigError(f"cutouts.path_template {template!r}: {{{name}:{spec}}} has a format that cannot be used")
    try:
        template.format(object_id="1", path="1", row_index=1, ra_deg=1.0, dec_deg=1.0)
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"cutouts.path_template {template!r}: {error}") from None
    return tuple(dict.fromkeys(fields))


def _root_of(template: str) -> str:
    """Folder that no row can lead out of, with its slash: the text before the first field, to the last slash."""
    literal = template[: template.index("{")]
    scheme, separator, rest = literal.partition("://")
    if separator and (scheme != "s3" or "/" not in rest):
        raise ConfigError(f"cutouts.path_template {template!r}: write a path, or s3://BUCKET/ before the first field")
    return literal[: literal.rfind("/") + 1]


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a catalogue that names a FIFO must not hang the run


class FileReader:
    """Read files in threads. Neither the rate limit nor the limiter of a service applies.

    A missing file is ``not_covered``; one that cannot be read now (no permission, S3 out of reach) is ``unreachable``.
    S3 that has not answered for as long as a row's tries may take is given up like a service: rows are not asked for,
    but for one now and then that looks whether it is back. Files on disks have threads of their own meanwhile.

    Parameters
    ----------
    config : CutoutConfig
    check : callable
        Structural check of an image.
    stats : FetchStats
        Where to count.
    """

    def __init__(self, config: CutoutConfig, *, check: Check, stats: FetchStats) -> None:
        self._config = config
        self._max_bytes = config.max_bytes
        self._check = check
        self._stats = stats
        self._threads = ThreadPoolExecutor(config.max_in_flight, thread_name_prefix="galaxray-files")
        self._s3_threads = ThreadPoolExecutor(config.max_in_flight, thread_name_prefix="galaxray-s3")
        self._s3_health = Health(
            pause_s=config.backoff_s,
            max_pause_s=config.max_backoff_s,
            patience_s=config.max_attempts * config.timeout_s,
        )
        self._s3_filesystem: Any = None
        self._lock = threading.Lock()

    async def read(self, address: str) -> Answer:
        """Read one file."""
        threads = self._s3_threads if address.startswith(S3) else self._threads
        answer = await asyncio.get_running_loop().run_in_executor(threads, self._answer, address)
        self._stats.requests += 1
        self._stats.answers["read" if answer.body is not None else "failed"] += 1
        self._stats.bytes += len(answer.body or b"")
        return answer

    async def close(self) -> None:
        """End the threads."""
        for threads in (self._threads, self._s3_threads):
            threads.shutdown(wait=False, cancel_futures=True)

    def _answer(self, path: str) -> Answer:
        try:
            content = self._read(path)
            dimensions = self._check(content)
        except ServiceDownError as down:
            return Answer.failed(down, attempts=0)
        except RowError as failure:
            return Answer.failed(failure, attempts=1)
        return Answer(content, dimensions and dimensions.width, attempts=1)

    def _read(self, path: str) -> bytes:
        try:
            content = self._read_s3_if_it_answers(path) if path.startswith(S3) else self._read_local(path)
        except FileNotFoundError:
            raise RowError(Status.NOT_COVERED, "no such file") from None
        except ValueError as error:  # a NUL in the path
            raise RowError(Status.NOT_COVERED, f"no path: {error}") from None
        except OSError as error:
            if error.errno in NO_SUCH_FILE:
                raise RowError(Status.NOT_COVERED, f"no such file: {error.strerror}") from None
            status = Status.THROTTLED if error.errno == errno.EBUSY else Status.UNREACHABLE
            raise RowError(status, f"{type(error).__name__}: {error.strerror or error}") from None
        if len(content) > self._max_bytes:
            raise self._too_large()
        return content

    def _read_local(self, path: str) -> bytes:
        try:
            with io.FileIO(path, opener=_open_without_waiting) as file:
                about = os.fstat(file.fileno())
                if not stat.S_ISREG(about.st_mode):
                    raise IsADirectoryError  # or a device or a pipe
                if about.st_size > self._max_bytes:
                    raise self._too_large()
                return file.read()
        except IsADirectoryError:
            raise RowError(Status.CORRUPT, "not a regular file") from None

    def _read_s3_if_it_answers(self, path: str) -> bytes:
        with self._lock:
            outage = self._s3_health.outage
            if outage is not None and not self._s3_health.probe(time.monotonic()):
                raise ServiceDownError(outage.status, f"not asked: {outage.reason}")
        verdict = Verdict.FAILED
        try:
            content = self._read_s3(path)
            verdict = Verdict.ANSWERED
            return content
        except PermissionError:
            verdict = Verdict.ANSWERED
            hint = " (no AWS credentials were found)" if self._s3().anon else ""
            raise RowError(Status.UNREACHABLE, f"permission denied{hint}") from None
        except OSError as error:
            if error.errno == errno.EBUSY:  # 503
                verdict = Verdict.REFUSED
            elif error.errno != errno.EREMOTEIO:  # 500
                verdict = Verdict.ANSWERED
            raise
        except RowError as failure:
            if failure.status is not Status.UNREACHABLE:
                verdict = Verdict.ANSWERED
            raise
        finally:
            with self._lock:
                if verdict is Verdict.ANSWERED:
                    self._s3_health.answered()
                else:
                    self._s3_health.failed(time.monotonic(), 1, verdict)

    def _read_s3(self, path: str) -> bytes:
        from aiohttp import ClientError, ClientPayloadError
        from botocore.exceptions import BotoCoreError, ParamValidationError

        # A range bounds what is read, in a single request.
        read = partial(self._s3().cat_file, path, start=0, end=self._max_bytes + 1)
        try:
            try:
                return cast(bytes, read())
            except ClientPayloadError:  # cut short, where the client's own tries have ended
                return cast(bytes, read())
        except ParamValidationError as error:
            raise RowError(Status.NOT_COVERED, f"no S3 path: {error}") from None
        except (BotoCoreError, ClientError) as error:
            raise RowError(Status.UNREACHABLE, f"{type(error).__name__}: {error}") from None
        except OSError as error:
            if error.errno == errno.EINVAL and "range" in str(error).lower():  # an empty object has no first byte
                return b""
            raise

    def _s3(self) -> Any:
        with self._lock:
            if self._s3_filesystem is None:
                wait_s = self._config.timeout_s
                tries = {"mode": "standard", "total_max_attempts": self._config.max_attempts}
                settings = {"connect_timeout": wait_s, "read_timeout": wait_s, "retries": tries}
                filesystem = s3_reader(config_kwargs=settings)
                filesystem.retries = 1  # or it would begin again with all tries
                self._s3_filesystem = filesystem
            return self._s3_filesystem

    def _too_large(self) -> RowError:
        return RowError(Status.CORRUPT, f"more than {self._max_bytes:,} bytes (max_bytes)")
