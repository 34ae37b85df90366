"""The program as a job on a cluster that asks for a token, by Ray's own command line."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from faulty_service import FaultyService
from head_node import RAY, HeadNode, head_node

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ["--", "python", "pipelines/annotate_catalog.py"]


class Jobs:
    """``ray job`` from the repository, with or without the token of the cluster."""

    def __init__(self, head: HeadNode, token: Path) -> None:
        self.head = head
        # What a user's shell has: the address and the token, and nothing of the cluster's own environment.
        self.environment = {**os.environ, "HOME": str(head.scratch), "RAY_USAGE_STATS_ENABLED": "0"}
        self.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        self.environment.pop("RAY_ADDRESS", None)

    def __call__(self, verb: str, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [RAY, "job", verb, "--address", f"http://{self.head.dashboard}", *(str(word) for word in words)]
        return subprocess.run(
            command, cwd=ROOT, env={**self.environment, **environment}, capture_output=True, text=True, timeout=240
        )

    def wait(self, name: str, status: str, timeout_s: float = 180) -> None:
        until = time.monotonic() + timeout_s
        while f"Job '{name}' {status}" not in (state := said(self("status", name))).replace("was ", ""):
            assert time.monotonic() < until, state
            time.sleep(2)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(secrets.token_hex(32))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "PATH": path, "OMP_NUM_THREADS": "1"}
    with head_node(environment, num_cpus=2) as head:
        yield Jobs(head, token)


def write_catalog(path: Path, rows: int) -> Path:
    lines = [f"g{i:05d},{i * 0.01:.4f},{i * 0.002 - 1:.4f}" for i in range(rows)]
    path.write_text("\n".join(["object_id,ra,dec", *lines]) + "\n")
    return path


def said(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_without_the_token_nobody_runs_anything(jobs, tmp_path):
    other = tmp_path / "token"
    other.write_text(secrets.token_hex(32))
    refused = jobs("submit", "--", "touch", tmp_path / "owned", RAY_AUTH_TOKEN_PATH=str(other))
    assert refused.returncode != 0
    assert "token" in said(refused).lower()
    assert not (tmp_path / "owned").exists()


@pytest.mark.timeout(500)
def test_a_job_is_refused_in_one_line_of_its_log(jobs, tmp_path):
    catalog = write_catalog(tmp_path / "c.csv", 5)
    wrong = [
        (["--output", tmp_path / "run", "--stagse", "fetch"], "error: no flag --stagse; did you mean --stages?"),
        (["--output", "run"], "error: --output run would be lost with the working folder of this job"),
    ]
    for number, (flags, message) in enumerate(wrong):
        name = f"wrong-{number}"
        flags = ["--working-dir", ".", "--submission-id", name, *PROGRAM, "--catalog", catalog, *flags]
        assert jobs("submit", *flags).returncode == 1
        jobs.wait(name, "failed")
        lines = [line for line in said(jobs("logs", name)).splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert message in lines[0]


@pytest.mark.timeout(900)
def test_a_job_that_is_stopped_can_be_submitted_again(jobs, tmp_path):
    catalog, output = write_catalog(tmp_path / "c.csv", 320), tmp_path / "run"
    units = output / "annotations"
    with FaultyService() as service:
        service.behaviour = lambda ask: "slow:0.05"
        flags = ["--working-dir", ".", *PROGRAM, "--catalog", catalog, "--output", output, "--stages", "fetch"]
        flags += ["--compute.rows_per_unit", "32", "--cutouts.base_url", service.url, "--cutouts.size_pixels", "64"]
        flags += ["--cutouts.requests_per_s", "none", "--cutouts.max_in_flight", "1"]

        assert jobs("submit", "--no-wait", "--submission-id", "first", *flags).returncode == 0
        until = time.monotonic() + 200
        while len(list(units.glob("*.parquet"))) < 2:
            assert time.monotonic() < until, said(jobs("logs", "first"))
            time.sleep(0.2)
        assert jobs("stop", "first").returncode == 0
        jobs.wait("first", "stopped")
        finished = {path.name: path.read_bytes() for path in units.glob("*.parquet")}
        assert 2 <= len(finished) < 10

        asked = len(service.asks)
        again = jobs("submit", "--submission-id", "second", *flags)
        assert again.returncode == 0, said(again)
        jobs.wait("second", "succeeded")
        assert "going on with run" in said(again)
        assert "320 of 320 rows" in said(again)
        assert len(service.asks) - asked <= 320 - 32 * len(finished)

    for name, content in finished.items():
        assert (units / name).read_bytes() == content, "a finished unit was done again"
    table = pd.read_parquet(units).sort_values("row_index", ignore_index=True)
    assert table["row_index"].tolist() == list(range(320))
    assert (table["status"] == "ok").all()
