"""A cluster that grows and shrinks under a run: Ray's own autoscaler, with nodes that are processes of this machine.

Their GPUs are a number that Ray counts with; the models run on the CPU, as torch finds no GPU there.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from head_node import HeadNode, head_node
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
ROWS, PICTURES = 3000, 8
NODE_TYPES = {"gpu": {"resources": {"CPU": 4, "GPU": 1, "object_store_memory": 600_000_000}, "max_workers": 2}}


@pytest.fixture
def head(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["RAY_DATA_MIN_GAP_BETWEEN_AUTOSCALING_REQUESTS"] = "2"
    with head_node(environment, node_types=NODE_TYPES) as head:
        yield head


def write_catalog(folder: Path) -> Path:
    for i in range(PICTURES):
        pixels = np.random.default_rng(i).integers(0, 255, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"x{i}.jpg")
    lines = [f"g{row:05d},{folder}/x{row % PICTURES}.jpg" for row in range(ROWS)]
    path = folder / "c.csv"
    path.write_text("\n".join(["object_id,path", *lines]) + "\n")
    return path


class Trace:
    """Nodes over time."""

    def __init__(self, head: HeadNode) -> None:
        self.head = head
        self.began = time.monotonic()
        self.seen: dict[str, bool] = {}
        self.lines: list[str] = []

    def alive(self) -> list[str]:
        nodes = self.head.nodes()
        if nodes != self.seen:
            self.seen = nodes
            self.note(f"{sum(nodes.values())} nodes")
        return sorted(number for number, lives in nodes.items() if lives)

    def note(self, what: str) -> None:
        self.lines.append(f"{time.monotonic() - self.began:6.1f} s  {what}")

    def __str__(self) -> str:
        return "\n".join(self.lines)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_nodes_come_and_go_and_are_lost_and_the_table_is_whole(tmp_path, head):
    output = tmp_path / "run"
    command = [sys.executable, "pipelines/annotate_catalog.py", "--catalog", str(write_catalog(tmp_path))]
    command += ["--output", str(output), "--cutouts.source", "files", "--segmenter.where", "all"]
    # Large views, so that there is enough to do for a second node on a fast machine, too.
    command += ["--compute.precision", "fp32", "--compute.rows_per_unit", "64", "--classifier.view_size", "256"]

    def units() -> list[Path]:
        return list((output / "annotations").glob("*.parquet"))

    trace = Trace(head)
    assert trace.alive() == []
    with (tmp_path / "log").open("w") as log:
        program = subprocess.Popen(command, cwd=ROOT, env=head.environment, stdout=log, stderr=log)
    try:
        lost = None
        while program.poll() is None:
            alive = trace.alive()
            if lost is None and len(alive) == 2 and len(units()) >= 5:
                lost = alive[0]
                trace.note(f"node {lost} is taken away, {len(units())} units are written")
                head.raylets()[lost].kill()
            time.sleep(0.5)
        trace.note("the program ends")
        assert program.returncode == 0, (tmp_path / "log").read_text()[-4000:]
        head.wait(lambda: not trace.alive(), timeout_s=90)  # what nobody needs is given back
    finally:
        program.kill()
        print(trace)

    assert lost is not None, "there were never two nodes with work done"
    assert len(trace.seen) >= 3, "the lost node was not replaced"
    table = pd.read_parquet(output / "annotations").sort_values("row_index", ignore_index=True)
    assert table["row_index"].tolist() == list(range(ROWS))
    assert (table["status"] == "ok").all()
    # Eight pictures: what they are said to be does not depend on the node that looked at them.
    for column in ("smooth-or-featured-dr5_smooth_fraction", "reconstruction_error", "spiral_fraction"):
        spread = table.groupby(table["row_index"] % PICTURES)[column].agg(np.ptp)
        assert spread.max() == 0, column
