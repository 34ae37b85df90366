"""Workers that die or fail while they come up, by a kill or because a disk does not answer just then, end no run."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from faulty_service import FaultyService
from programs import QUICK, end_of, read, start

ROWS, KILLS = 96, 2

STALE_DISK = """
import os, pathlib, sys

_read_bytes = pathlib.Path.read_bytes

def _stale_read_bytes(path):
    if path.name == "classifier.safetensors" and "default_worker" in sys.argv[0]:
        for token in pathlib.Path(os.environ["CHAOS_STALE_READS"]).iterdir():
            token.unlink()
            raise OSError(116, "Stale file handle")
    return _read_bytes(path)

if "CHAOS_STALE_READS" in os.environ:
    pathlib.Path.read_bytes = _stale_read_bytes
"""
"""Becomes ``sitecustomize.py``: Ray's workers fail to read the weights as often as there are files in a folder."""


@contextmanager
def classifying(folder: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The program at work; it ends with the block."""
    lines = [f"g{row},{row * 0.01:.4f},{row % 90}" for row in range(ROWS)]
    (folder / "c.csv").write_text("\n".join(["object_id,ra,dec", *lines]) + "\n")
    with FaultyService() as service:
        flags = ["--catalog", folder / "c.csv", "--output", folder / "run", "--stages", "fetch,classify", *QUICK]
        flags += ["--cutouts.base_url", service.url, "--cutouts.size_pixels", 64, "--cutouts.requests_per_s", "none"]
        program = start(*flags, **environment)
        try:
            yield program
        finally:
            program.kill()


def newborn(program: subprocess.Popen[str], stage: str) -> psutil.Process | None:
    """An actor of a stage that is still making its stage."""
    for process in psutil.Process(program.pid).children(recursive=True):
        with suppress(psutil.Error):
            if f"MapBatches({stage})).__init__" in " ".join(process.cmdline()):
                return process
    return None


def assert_complete(folder: Path) -> None:
    table = read(folder / "run")
    assert table["row_index"].tolist() == list(range(ROWS))
    assert (table["status"] == "ok").all()


@pytest.mark.timeout(400)
def test_workers_killed_while_they_come_up_are_replaced(tmp_path: Path) -> None:
    killed: set[int] = set()
    with classifying(tmp_path) as program:
        until = time.monotonic() + 240
        while len(killed) < KILLS:
            assert program.poll() is None, program.communicate()
            assert time.monotonic() < until
            found = newborn(program, "Models")
            if found is not None and found.pid not in killed:
                found.kill()
                killed.add(found.pid)
            time.sleep(0.02)
        end_of(program)
    assert_complete(tmp_path)


@pytest.mark.timeout(400)
def test_workers_that_fail_while_they_come_up_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(STALE_DISK)
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    for number in range(2):
        (tokens / str(number)).touch()
    with classifying(tmp_path, PYTHONPATH=str(tmp_path), CHAOS_STALE_READS=str(tokens)) as program:
        end_of(program)
    assert not list(tokens.iterdir()), "no worker failed: nothing is tested"
    assert_complete(tmp_path)
