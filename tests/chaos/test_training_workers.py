"""A training on workers of Ray Train, one of which is killed, ends with the weights of an undisturbed one."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
from PIL import Image
from programs import ROOT

from galaxray.models.weights import load_model
from galaxray.training.shards import write_shards

GALAXIES, EPOCHS = 96, 6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright and dark pictures."""
    folder, rng = tmp_path_factory.mktemp("data") / "shards", np.random.default_rng(0)
    images = []
    for row in range(GALAXIES):
        pixels = np.clip(rng.normal(90 if row % 2 else 160, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        images.append(file.getvalue())
    ids = [f"g{row}" for row in range(GALAXIES)]
    kinds = ["bright", "dark"] * (GALAXIES // 2)
    write_shards(folder, [pa.table({"object_id": ids, "image": images, "kind": kinds})], val=0.2, test=0)
    return folder


def start(data: Path, output: Path, *flags: object) -> subprocess.Popen[str]:
    command = [sys.executable, "training/finetune.py", "--data", data, "--output", output, "--task", "classes"]
    command += ["--column", "kind", "--num-workers", "2", "--view-size", "32", "--epochs", EPOCHS, "--batch-size", "16"]
    command += [
        "--save-every-s",
        "0.001",
        "--cache",
        output.parent / "cache",
        "--device",
        "cpu",
        "--threads",
        "1",
        *flags,
    ]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end_of(program: subprocess.Popen[str]) -> str:
    said, _ = program.communicate(timeout=300)
    assert program.returncode == 0, said
    return said


def workers_of(program: subprocess.Popen[str]) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(program.pid).children(recursive=True):
        with suppress(psutil.Error):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


def epochs_in(output: Path) -> int:
    with suppress(OSError, ValueError):
        return len(json.loads((output / "history.json").read_text()))
    return 0


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_worker_that_is_killed_costs_no_more_than_time(tmp_path: Path, data: Path) -> None:
    said = end_of(start(data, tmp_path / "whole"))
    assert f"epoch {EPOCHS}:" in said
    program = start(data, tmp_path / "hit")
    try:
        until = time.monotonic() + 200
        while epochs_in(tmp_path / "hit") < 2:
            assert program.poll() is None, program.communicate()
            assert time.monotonic() < until
            time.sleep(0.05)
        victims = workers_of(program)
        assert len(victims) == 2
        victims[-1].kill()
        end_of(program)
    finally:
        program.kill()
    whole, hit = (json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "hit"))
    assert hit == whole
    digests = {load_model(tmp_path / name / "model.safetensors")[1]["sha256"] for name in ("whole", "hit")}
    assert len(digests) == 1
