"""A run folder in S3."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO, cast

from galaxray.errors import ConfigError
from galaxray.folder import Entry
from galaxray.s3 import s3_filesystem

__all__ = ["S3Folder"]

PROBE = ".write-probe"
"""Object that is put and deleted to see whether a prefix can be written to; readers of tables pass over its name."""


class S3Folder:
    """A prefix of an S3 bucket: a put of one object is atomic by itself."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self._prefix = self.root.removeprefix("s3://")
        self._s3 = s3_filesystem()

    def check(self) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        probe = f"{self._prefix}/{PROBE}"
        try:
            self.exists("run.json")
            self._s3.pipe_file(probe, b"")
        except (OSError, BotoCoreError, ClientError, ValueError) as error:
            reason = "no such bucket" if isinstance(error, FileNotFoundError) else str(error).splitlines()[0]
            raise ConfigError(
                f"output {self.root} cannot be written to: {reason}. Credentials and endpoint come from the "
                "environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL, ...)"
            ) from error
        with suppress(PermissionError):  # a run itself never deletes anything
            self._s3.rm_file(probe)

    def clean(self, older_than_s: float = 0.0) -> None:
        """A put that was not finished leaves nothing."""

    def exists(self, name: str) -> bool:
        try:  # isfile() would call a refusal or an outage "no such file"
            return bool(self._s3.info(f"{self._prefix}/{name}")["type"] == "file")
        except FileNotFoundError:
            return False

    def list(self, folder: str) -> list[str]:
        return sorted(entry.name for entry in self.entries(folder))

    def entries(self, folder: str) -> Iterator[Entry]:
        # Page by page: s3fs would keep a dictionary of every object of a large folder before it gave the first.
        bucket, _, prefix = (f"{self._prefix}/{folder}".rstrip("/") + "/").partition("/")
        where = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/"}
        while True:
            try:
                page = self._s3.call_s3("list_objects_v2", **where)
            except FileNotFoundError:  # no such bucket
                return
            for found in page.get("Contents", ()):
                name, modified = found["Key"].removeprefix(prefix), cast(datetime, found["LastModified"])
                if name:  # a console's "folder" is an object whose name ends with a slash
                    yield Entry(name, found["Size"], modified.timestamp())
            if not page.get("IsTruncated"):
                return
            where["ContinuationToken"] = page["NextContinuationToken"]

    def tail(self, name: str, num_bytes: int) -> bytes:
        return cast(bytes, self._s3.cat_file(f"{self._prefix}/{name}", start=-num_bytes))

    def read(self, name: str) -> bytes:
        return cast(bytes, self._s3.cat_file(f"{self._prefix}/{name}"))

    def open(self, name: str) -> IO[bytes]:
        return cast("IO[bytes]", self._s3.open(f"{self._prefix}/{name}", "rb"))

    def write(self, name: str, content: bytes) -> None:
        self._s3.pipe_file(f"{self._prefix}/{name}", content)

    def create(self, name: str, content: bytes) -> bool:
        try:
            self._s3.pipe_file(f"{self._prefix}/{name}", content, mode="create")
        except OSError as error:
            if isinstance(error, FileExistsError) or _lost_a_race(error):
                return False
            raise
        return True

    def replace(self, name: str, old: bytes, new: bytes) -> bool:
        path = f"{self._prefix}/{name}"
        try:
            tag = self._s3.info(path)["ETag"]
            if self.read(name) != old:
                return False
            self._s3.pipe_file(path, new, IfMatch=tag)
        except FileNotFoundError:
            return False
        except OSError as error:
            if _lost_a_race(error):
                return False
            raise
        return True

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._s3.rm_file(f"{self._prefix}/{name}")

    def adopt(self, local: Path, name: str) -> None:
        self._s3.put_file(str(local), f"{self._prefix}/{name}")
        local.unlink()


def _lost_a_race(error: OSError) -> bool:
    """Whether S3 did not write because somebody else has, or is just about to."""
    code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
    return code in ("PreconditionFailed", "ConditionalRequestConflict")
