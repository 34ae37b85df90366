"""What reads other people's files ends well or with an error of ours, within bounds, whatever it is given.

Each target (``fuzz_targets.py``) runs in a process of its own, so that a crash of a decoder written in C is a failure
like any other. The input that failed is kept: ``python -m tests.chaos.fuzzing TARGET --input FILE --replay FILE``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.chaos.fuzz_targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
CASES = 10_000
FEW_CASES = 300


def fuzz(target: str, cases: int, seed: int) -> None:
    handle, name = tempfile.mkstemp(prefix=f"galaxray-fuzz-{target}-")
    os.close(handle)
    command = [sys.executable, "-m", "tests.chaos.fuzzing", target, "--cases", str(cases), "--seed", str(seed)]
    done = subprocess.run([*command, "--input", name], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        told = "\n".join(done.stderr.splitlines()[-40:])
        pytest.fail(f"{target} ended with status {done.returncode}; the input is kept in {name}\n{done.stdout}\n{told}")
    print(f"{target}: {done.stdout.strip()}")
    assert int(re.match(r"\d+", done.stdout)[0]) >= cases
    Path(name).unlink()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("target", TARGETS)
def test_a_few(target: str, chaos_seed: int) -> None:
    fuzz(target, -(-FEW_CASES // len(TARGETS)), chaos_seed)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("target", TARGETS)
def test_ten_thousand(target: str, chaos_seed: int) -> None:
    fuzz(target, -(-CASES // len(TARGETS)), chaos_seed)
