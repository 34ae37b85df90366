"""Workers that are killed while they come up, as with a node that is lost just then, do not end a run."""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from faulty_service import FaultyService
from programs import QUICK, end_of, read, start

ROWS, KILLS = 96, 2


def newborn(program: subprocess.Popen[str], stage: str) -> psutil.Process | None:
    """An actor of a stage that is still making its stage."""
    for process in psutil.Process(program.pid).children(recursive=True):
        with suppress(psutil.Error):
            if f"MapBatches({stage})).__init__" in " ".join(process.cmdline()):
                return process
    return None


@pytest.mark.timeout(400)
def test_workers_killed_while_they_come_up_are_replaced(tmp_path: Path) -> None:
    lines = [f"g{row},{row * 0.01:.4f},{row % 90}" for row in range(ROWS)]
    (tmp_path / "c.csv").write_text("\n".join(["object_id,ra,dec", *lines]) + "\n")
    killed: set[int] = set()
    with FaultyService() as service:
        flags = ["--catalog", tmp_path / "c.csv", "--output", tmp_path / "run", "--stages", "fetch,classify", *QUICK]
        flags += ["--cutouts.base_url", service.url, "--cutouts.size_pixels", 64, "--cutouts.requests_per_s", "none"]
        program = start(*flags)
        try:
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
        finally:
            program.kill()
    table = read(tmp_path / "run")
    assert table["row_index"].tolist() == list(range(ROWS))
    assert (table["status"] == "ok").all()
