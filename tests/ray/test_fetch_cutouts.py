"""The program that makes data sets as a user runs it: its own process, its own Ray, real HTTP; two starts of Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from faulty_service import FaultyService
from test_annotate_catalog import QUICK, ROOT, from_service, processes_of, wait_for

from galaxray.images import View
from galaxray.training.labels import LabelSpec, targets_for
from galaxray.training.shards import open_shards
from galaxray.training.splits import split_of
from galaxray.trees import load_tree

TREE = load_tree("gz2")
ROWS = 160


@pytest.fixture
def service() -> Iterator[FaultyService]:
    with FaultyService() as service:
        yield service


def write_votes(path: Path) -> Path:
    lines = [",".join(["dr7objid", "ra", "dec", "png_loc", *TREE.labels, "comment"])]
    for row in range(ROWS):
        votes = {"smooth-or-featured-gz2_smooth": row % 41, "smooth-or-featured-gz2_artifact": 41 - row % 41}
        cells = [str(votes.get(label, 0)) for label in TREE.labels]
        lines.append(",".join([str(587727178986356823 + row), f"{row * 0.01:.4f}", "-0.5", "no/where.png", *cells, ""]))
    path.write_text("\n".join(lines) + "\n")
    return path


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "pipelines/fetch_cutouts.py", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_votes_and_cutouts_become_a_data_set_although_the_program_is_killed(tmp_path, service, monkeypatch):
    monkeypatch.setenv("GALAXRAY_TEST_MARK", str(os.getpid()))
    gone = {f"{row * 0.01:.4f}" for row in (3, 77)}
    service.behaviour = lambda ask: "code:404" if f"{float(ask.query['ra']):.4f}" in gone else "slow:0.02"
    output = tmp_path / "data"
    flags = ["--catalog", write_votes(tmp_path / "votes.csv"), "--output", output, "--tree", "gz2", *QUICK]
    flags += [*from_service(service), "--cutouts.max_in_flight", "1"]

    process = start(*flags)
    fetched = output / "fetched" / "annotations"
    wait_for(lambda: len(list(fetched.glob("*.parquet"))) >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    until = time.monotonic() + 150
    while processes_of(os.getpid()):
        assert time.monotonic() < until, "Ray outlived the program"
        time.sleep(0.2)
    kept = {path.name: path.read_bytes() for path in fetched.glob("*.parquet")}
    assert 2 <= len(kept) < 5
    assert not (output / "dataset.json").exists()

    asked = len(service.asks)
    process = start(*flags)
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, out + err
    assert "going on with run" in err
    assert len(service.asks) - asked <= ROWS - 32 * len(kept)
    assert "158 of 160 galaxies are in the data set; 2 are not (rejected.parquet): not_covered 2" in err
    assert "Traceback" not in err
    assert "smooth-or-featured-gz2" in out
    for name, content in kept.items():
        assert (fetched / name).read_bytes() == content, "a finished unit was done again"

    shards = open_shards(output)
    rejected = pq.read_table(output / "rejected.parquet")["object_id"].to_pylist()
    assert rejected == ["587727178986356826", "587727178986356900"]
    assert sorted([*shards.all.object_id, *rejected]) == [str(587727178986356823 + row) for row in range(ROWS)]
    for name in ("train", "val", "test"):
        part = shards.split(name)
        assert set(split_of(part.object_id)) == {name}
        rows = part.object_id.astype("int64") - 587727178986356823
        votes = targets_for("tree", part, LabelSpec(tree="gz2"))
        assert votes[:, 0].tolist() == (rows % 41).tolist()
        pixels = part.pixels(View(size=32), tmp_path / "cache")
        assert pixels.shape == (len(part), 32, 32, 3)
        assert pixels.any(axis=(1, 2, 3)).all()
