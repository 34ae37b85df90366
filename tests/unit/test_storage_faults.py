"""A disk that is full or read-only, a store that is slow, busy or away."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import run

import pytest
from faulty_store import FaultyStore, Request

from galaxray import s3
from galaxray.errors import ConfigError, RunError
from galaxray.lock import NAME, RunLock
from galaxray.storage import LocalFolder, S3Folder
from galaxray.storage_errors import storage_errors

MEGABYTE = bytes(2**20)


@pytest.fixture
def store(s3_endpoint: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    with FaultyStore(s3_endpoint) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
        yield store


@pytest.fixture
def folder(store: FaultyStore, s3_bucket: str) -> S3Folder:
    folder = S3Folder(f"{s3_bucket}/run")
    folder.write("there", b"old")
    return folder


def first(count: int, fault: str) -> Callable[[Request], str]:
    """The first requests from now on fail."""
    left = iter(range(count))
    return lambda request: "ok" if next(left, None) is None else fault


def on_disk(disk: Path) -> list[str]:
    return sorted(str(path.relative_to(disk)) for path in disk.rglob("*") if path.is_file())


def test_what_does_not_fit_on_the_disk_leaves_nothing_behind(tmp_path, small_disk):
    disk = small_disk("3m")
    folder = LocalFolder(str(disk))
    folder.write("a", MEGABYTE)
    (tmp_path / "c").write_bytes(3 * MEGABYTE)
    too_much = {
        "write": lambda: folder.write("b", 3 * MEGABYTE),
        "adopt": lambda: folder.adopt(tmp_path / "c", "c"),
        "create": lambda: folder.create("d", 3 * MEGABYTE),
    }
    for name, write in too_much.items():
        refused = pytest.raises(RunError, match=f"^{disk}(/d)?: No space left on device; make room there")
        with refused as caught, storage_errors(folder.root):
            write()
        assert "\n" not in str(caught.value)
        assert on_disk(disk) == ["a"], name
    assert (tmp_path / "c").exists()  # what could not be moved is not lost
    folder.write("b", MEGABYTE)


def test_a_lock_on_a_full_disk_leaves_no_trap(small_disk):
    disk = small_disk("64k")
    with suppress(OSError), (disk / "full").open("wb", buffering=0) as file:
        file.write(MEGABYTE)
        file.write(MEGABYTE)  # the first is written in part
    with pytest.raises(RunError, match="No space left"), storage_errors(str(disk)), RunLock(LocalFolder(str(disk))):
        pass
    (disk / "full").unlink()
    began = time.monotonic()
    with RunLock(LocalFolder(str(disk))):
        assert time.monotonic() - began < 20  # and not the patience with an unreadable lock


BECOMES_READ_ONLY = """
import subprocess, sys
from galaxray.errors import RunError
from galaxray.lock import RunLock
from galaxray.storage import LocalFolder
from galaxray.storage_errors import storage_errors

disk = sys.argv[1]
try:
    with storage_errors(disk), RunLock(LocalFolder(disk)):
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        LocalFolder(disk).write("a", b"1")
except RunError as error:
    print(error)
"""


def test_a_disk_that_becomes_read_only(small_disk):
    disk = small_disk("1m")
    ended = run([sys.executable, "-c", BECOMES_READ_ONLY, disk], capture_output=True, text=True, check=True)
    assert ended.stdout.startswith(f"{disk}: Read-only file system; have it mounted for writing again")
    assert ended.stdout.count("\n") == 1
    with pytest.raises(ConfigError, match=f"output {disk} cannot be written to: {disk}: Read-only file system"):
        LocalFolder(str(disk)).check()
    run(["mount", "-o", "remount,rw", disk], check=True)
    with RunLock(LocalFolder(str(disk))):  # the lock that could not be removed is a dead program's
        pass
    assert on_disk(disk) == []


@pytest.mark.parametrize("fault", ["500", "503", "503-away", "reset", "lost"])
def test_a_store_that_recovers(store, folder, fault):
    store.behaviour = first(1, fault)
    folder.write("a", b"new")
    store.behaviour = first(1, fault)
    assert folder.read("there") == b"old"
    store.behaviour = lambda request: "ok"
    assert folder.read("a") == b"new"


def test_answers_that_are_cut_or_slow(store, folder):
    store.behaviour = first(2, "cut")
    assert folder.read("there") == b"old"
    store.behaviour = lambda request: "slow:0.2"
    with RunLock(folder) as lock:
        folder.write("a", b"new")
        lock.check()
    assert not folder.exists(NAME)


def test_a_lock_that_was_written_although_the_store_said_no(store, folder):
    store.behaviour = lambda request: "lost" if request.method == "PUT" and request.attempt == 1 else "ok"
    with RunLock(folder) as lock:
        lock.check()
        assert folder.exists(NAME)
    assert not folder.exists(NAME)


AWAY = "see whether the store is up"


@pytest.mark.parametrize(
    ("fault", "reading", "writing"),
    [
        ("500", AWAY, AWAY),
        ("503", "wait until the store has fewer", "Please reduce your request rate; wait until the store has fewer"),
        ("reset", f"Connection was closed .*{AWAY}", f"Connection was closed .*{AWAY}"),
        ("hang", f"Read timeout .*{AWAY}", f"Read timeout .*{AWAY}"),
        ("cut", f"payload is not completed.*{AWAY}", None),  # the answer to a put has no body
    ],
)
def test_a_store_that_does_not_recover(store, folder, monkeypatch, fault, reading, writing):
    quick = {"connect_timeout": 0.5, "read_timeout": 0.5, "retries": {"total_max_attempts": 2, "mode": "standard"}}
    monkeypatch.setattr(s3, "PATIENCE", quick)
    monkeypatch.setattr(s3, "ROUNDS", 1)
    impatient = S3Folder(folder.root)
    asks = [(reading, lambda: impatient.read("there")), (writing, lambda: impatient.write("there", b"new"))]
    store.behaviour = lambda request: fault
    for message, ask in asks:
        if message is not None:
            refused = pytest.raises(RunError, match=f"^{folder.root}: .*{message}")
            with refused as caught, storage_errors(folder.root):
                ask()
            assert "\n" not in str(caught.value)
    store.behaviour = lambda request: "ok"
    assert folder.read("there") == b"old"


def test_the_patience_with_a_store_ends_before_a_run_counts_as_stalled():
    tries = s3.PATIENCE["retries"]["total_max_attempts"]
    waits = sum(min(2.0**i, 20) for i in range(tries - 1))
    assert waits == 71
    assert s3.ROUNDS * (tries * s3.PATIENCE["read_timeout"] + waits) < 600
