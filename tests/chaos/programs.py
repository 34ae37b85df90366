"""The program as a user runs it: a process of its own, with a Ray of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("--compute.num_cpus", "2", "--compute.rows_per_unit", "32")


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start the program; environment variables may be added."""
    command = [sys.executable, "pipelines/annotate_catalog.py", *(str(argument) for argument in arguments)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end_of(process: subprocess.Popen[str], status: int = 0, timeout_s: float = 240) -> str:
    """What the program said to the user, after checking how it ended: never with a traceback."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"not ended after {timeout_s} s: {out + err}") from None
    assert process.returncode == status, out + err
    assert "Traceback" not in err, err
    return err


def run(*arguments: object, status: int = 0, **environment: str) -> str:
    """Run the program to its end."""
    return end_of(start(*arguments, **environment), status)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], timeout_s: float = 120) -> None:
    """Wait until something is so, while the program works."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def error_of(err: str) -> str:
    """The one line that says why the program ended."""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    return lines[0]


def read(output: Path) -> pd.DataFrame:
    """The finished table."""
    return pd.read_parquet(output / "annotations").sort_values("row_index", ignore_index=True)
