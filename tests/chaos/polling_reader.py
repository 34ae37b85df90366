"""A reader who polls the table of a run while it is made; a program, which reports when its input ends.

It knows nothing of galaxray, only what any reader of Parquet folders takes for granted: what is there is whole and
stays there, and no row is there twice.
"""

from __future__ import annotations

import json
import re
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow.parquet as pq


class Reader:
    """Looks at a folder again and again.

    Parameters
    ----------
    file_system : fsspec file system
    folder : str
    """

    def __init__(self, file_system: Any, folder: str) -> None:
        self.file_system = file_system
        self.folder = folder
        self.seen: dict[str, Any] = {}
        self.rows: dict[str, np.ndarray] = {}
        self.owner: dict[int, str] = {}
        self.run_ids: set[str] = set()
        self.faults: Counter[str] = Counter()
        self.polls = self.rewritten = 0

    def poll(self) -> None:
        """List the folder and read every file that is new or was replaced."""
        try:
            entries = self.file_system.ls(self.folder, detail=True, refresh=True)
        except FileNotFoundError:
            entries = []
        self.polls += 1
        now = {entry["name"].rsplit("/", 1)[1]: entry for entry in entries}
        for name in self.seen.keys() - now.keys():
            self.faults[f"{name} was there and is gone"] += 1
        for name, entry in sorted(now.items()):
            version = entry.get("ETag") or (entry["ino"], entry["mtime"], entry["size"])
            if self.seen.get(name) != version:
                self.rewritten += name in self.seen
                self.seen[name] = version
                self.read(name, entry["name"])

    def read(self, name: str, path: str) -> None:
        """Read a file whole, and see whose rows it has."""
        if not re.fullmatch(r"unit-\d{8}\.parquet", name):
            self.faults[f"{name} is no file of a table"] += 1
            return
        try:
            with self.file_system.open(path, "rb") as file:
                table = pq.read_table(file)
        except Exception as error:
            self.faults[f"{name} cannot be read: {type(error).__name__}: {error}"] += 1
            return
        rows = table["row_index"].to_numpy()
        self.run_ids.add(table.schema.metadata[b"run_id"].decode())
        if name in self.rows and not np.array_equal(rows, self.rows[name]):
            self.faults[f"{name} has other rows than before"] += 1
        self.rows[name] = rows
        for row in rows.tolist():
            if self.owner.setdefault(row, name) != name:
                self.faults[f"row {row} is in {self.owner[row]} and {name}"] += 1

    def report(self) -> dict[str, Any]:
        return {
            "polls": self.polls,
            "files": len(self.seen),
            "rows": len(self.owner),
            "rewritten": self.rewritten,
            "run_ids": sorted(self.run_ids),
            "faults": dict(self.faults.most_common(20)),
        }


@contextmanager
def reader(output: str, pause_s: float) -> Iterator[dict[str, Any]]:
    """A reader who polls the table in a process of its own; what it says is there when the block ends."""
    command = [
        sys.executable,
        __file__,
        f"{output}/annotations",
        str(pause_s),
    ]
    report: dict[str, Any] = {}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield report
            said, _ = process.communicate("", timeout=60)
            report |= json.loads(said)
        finally:
            process.kill()


def main(folder: str, pause_s: float) -> None:
    if folder.startswith("s3://"):
        import s3fs

        reader = Reader(s3fs.S3FileSystem(use_listings_cache=False), folder.removeprefix("s3://"))
    else:
        from fsspec.implementations.local import LocalFileSystem

        reader = Reader(LocalFileSystem(), folder)
    while not select.select([sys.stdin], [], [], pause_s)[0]:
        reader.poll()
    reader.poll()
    print(json.dumps(reader.report()))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
