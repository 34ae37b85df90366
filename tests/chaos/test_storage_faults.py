"""Whole runs on a disk that is full or read-only, at a store with weak moments, and with a clock that jumps."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import s3fs
from faulty_service import FaultyService
from faulty_store import FaultyStore, Request
from programs import QUICK, end_of, error_of, read, run, start, wait_for

ROWS = 320


@pytest.fixture
def service() -> Iterator[FaultyService]:
    with FaultyService() as service:
        yield service


@pytest.fixture
def flags(service: FaultyService, tmp_path: Path) -> list[object]:
    """Of a run of ten units that keeps its images: 1.8 MB."""
    lines = [f"g{row},{row * 0.01:.4f},{row % 90}" for row in range(ROWS)]
    (tmp_path / "c.csv").write_text("\n".join(["object_id,ra,dec", *lines]) + "\n")
    flags = ["--catalog", tmp_path / "c.csv", "--stages", "fetch", "--cutouts.keep", *QUICK]
    flags += ["--cutouts.base_url", service.url, "--cutouts.size_pixels", 128, "--cutouts.requests_per_s", "none"]
    return [*flags, "--cutouts.max_in_flight", 4]


def units(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (output / "annotations").glob("*.parquet")}


def staged(output: Path) -> list[Path]:
    return list((output / ".staging").glob("*"))


def remount(disk: Path, options: str) -> None:
    for _ in range(500):  # it does not become read-only while a file is being written
        if (
            subprocess.run(["mount", "-o", f"remount,{options}", disk], capture_output=True, check=False).returncode
            == 0
        ):
            return
        time.sleep(0.01)
    raise AssertionError(f"{disk} cannot be remounted with {options}")


def assert_complete(output: Path) -> None:
    table = read(output)
    assert table["row_index"].tolist() == list(range(ROWS))
    assert (table["status"] == "ok").all()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_disk_that_is_full_and_then_read_only(tmp_path, service, flags, small_disk):
    disk = small_disk("900k")
    output = disk / "run"
    flags += ["--output", output]

    full = error_of(run(*flags, status=1))
    assert full.startswith(f"error: {output}: No space left on device; make room there")
    assert "the same command goes on" in full
    assert not staged(output)
    finished = units(output)
    assert 0 < len(finished) < 10
    assert sum(pq.read_metadata(path).num_rows for path in (output / "annotations").iterdir()) == 32 * len(finished)

    remount(disk, "size=20m")
    service.behaviour = lambda ask: "slow:0.1"
    process = start(*flags)
    wait_for(lambda: len(units(output)) >= len(finished) + 2, process)
    remount(disk, "ro")
    read_only = error_of(end_of(process, status=1))
    assert read_only.startswith(f"error: {output}: Read-only file system; have it mounted for writing again")
    assert "cannot be written to" in error_of(run(*flags, status=2))
    now = units(output)
    assert finished.items() <= now.items()
    assert len(now) < 10

    remount(disk, "rw")
    service.behaviour = lambda ask: "ok"
    assert "going on with run" in run(*flags)
    assert_complete(output)
    assert now.items() <= units(output).items()
    assert not staged(output)

    # The rows are there, the summary is not: no room for it, and then there is.
    summary = json.loads((output / "summary.json").read_text())
    (output / "summary.json").unlink()
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**20))
    asked = len(service.asks)
    assert error_of(run(*flags, status=1)).startswith(f"error: {output}: No space left on device; make room there")
    filler.unlink()
    run(*flags)
    assert json.loads((output / "summary.json").read_text())["by_status"] == summary["by_status"]
    assert len(service.asks) == asked
    assert_complete(output)


@pytest.fixture
def store(s3_endpoint: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    with FaultyStore(s3_endpoint) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
        yield store


def download(bucket: str, output: Path) -> None:
    s3fs.S3FileSystem(skip_instance_cache=True).get(f"{bucket}/run/annotations", str(output), recursive=True)


def weak(seed: int, share: float) -> Callable[[Request], str]:
    """Some requests fail, wherever they fall: those of the lock and of the finished units too."""
    rng = random.Random(seed)
    faults = ("500", "503", "503-away", "reset", "lost", "cut", "slow:1")
    return lambda request: rng.choice(faults) if rng.random() < share else "ok"


@pytest.mark.long
@pytest.mark.timeout(400)
def test_two_programs_at_once_at_a_store_with_weak_moments(tmp_path, flags, store, s3_bucket, chaos_seed):
    store.behaviour = weak(chaos_seed, 0.1)
    flags += ["--output", f"{s3_bucket}/run"]
    programs = [start(*flags), start(*flags)]
    for program in programs:
        program.wait(timeout=240)
    first, second = sorted(programs, key=lambda program: program.returncode)
    end_of(first)
    refused = error_of(end_of(second, status=2))
    assert f"is being worked on by process {first.pid}" in refused
    failed = sum(1 for request in store.requests if request.attempt > 1)
    assert failed > 10
    store.behaviour = lambda request: "ok"
    download(s3_bucket, tmp_path / "annotations")
    assert_complete(tmp_path)
    assert not s3fs.S3FileSystem(skip_instance_cache=True).exists(f"{s3_bucket}/run/lock.json")


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", ["503", "reset"])
def test_a_store_that_goes_away_and_comes_back(tmp_path, service, flags, store, s3_bucket, fault):
    service.behaviour = lambda ask: "slow:0.1"
    flags += ["--output", f"{s3_bucket}/run"]
    process = start(*flags)
    wait_for(lambda: sum("annotations/unit-" in r.path for r in store.requests if r.method == "PUT") >= 2, process)
    store.behaviour = lambda request: fault
    away = error_of(end_of(process, status=1, timeout_s=600))
    assert away.startswith(f"error: {s3_bucket}/run: ")
    assert "the same command goes on" in away
    store.behaviour = lambda request: "ok"
    service.behaviour = lambda ask: "ok"
    assert "going on with run" in run(*flags)
    download(s3_bucket, tmp_path / "annotations")
    assert_complete(tmp_path)


CLOCK = """
import os, time

_time, _time_ns = time.time, time.time_ns

def _shift():
    try:
        with open(os.environ["TEST_CLOCK"]) as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0

def shifted_time():  # with a name, by which Ray can pickle it
    return _time() + _shift()

def shifted_time_ns():
    return _time_ns() + _shift() * 10**9

if "TEST_CLOCK" in os.environ:
    time.time, time.time_ns = shifted_time, shifted_time_ns
"""
"""Becomes ``sitecustomize.py``: the clock of every Python process, the program's and the workers', can be moved."""


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_clock_that_jumps(tmp_path, service, flags):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(CLOCK)
    clock, output = tmp_path / "clock", tmp_path / "run"
    service.behaviour = lambda ask: "429:1" if ask.attempt == 1 and len(service.asks) % 100 == 50 else "slow:0.1"
    began = time.monotonic()
    process = start(*flags, "--output", output, PYTHONPATH=str(tmp_path / "site"), TEST_CLOCK=str(clock))
    for done, shift in ((1, 86400), (4, -86400), (7, 0)):
        wait_for(lambda done=done: len(units(output)) >= done, process)
        clock.with_suffix(".new").write_text(str(shift))
        clock.with_suffix(".new").replace(clock)
    end_of(process)
    took_s = time.monotonic() - began
    assert_complete(output)
    summary = json.loads((output / "summary.json").read_text())
    assert 0 < summary["stream_s"] <= summary["wall_s"] <= took_s
    assert ROWS / took_s <= summary["rows_per_s"] <= 2 * 4 / 0.1
    assert all(0 <= stage["busy_s"] <= 10 * took_s for stage in summary["stages"].values())
    assert not (output / "lock.json").exists()
