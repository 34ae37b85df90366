"""The program as a user runs it: its own process, its own Ray, real files and real HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import s3fs
from faulty_service import FaultyService
from PIL import Image

from pipelines.annotate_catalog import main

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "pipelines/annotate_catalog.py"]
QUICK = ["--compute.num_cpus", "2", "--compute.rows_per_unit", "32", "--compute.stall_timeout_s", "90"]


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [*PROGRAM, *(str(argument) for argument in arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    process = start(*arguments)
    out, err = process.communicate(timeout=150)
    assert process.returncode == status, out + err
    return subprocess.CompletedProcess(process.args, status, out, err)


def write_catalog(path: Path, rows: int) -> Path:
    lines = [f"g{i:05d},{i * 0.01:.4f},{i * 0.002 - 1:.4f}" for i in range(rows)]
    path.write_text("\n".join(["object_id,ra,dec", *lines]) + "\n")
    return path


def from_service(service: FaultyService) -> list[str]:
    return [
        *("--cutouts.base_url", service.url, "--cutouts.size_pixels", "64", "--cutouts.requests_per_s", "none"),
        *("--cutouts.max_attempts", "2", "--cutouts.backoff_s", "0.01", "--cutouts.timeout_s", "5"),
    ]


def read(output: Path) -> pd.DataFrame:
    return pd.read_parquet(output / "annotations").sort_values("row_index", ignore_index=True)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], timeout_s: float = 100) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


def processes_of(group: int) -> list[int]:
    """Live processes of a Ray session that were started by this process, its orphans included."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"GALAXRAY_TEST_MARK={group}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.fixture
def service() -> Iterator[FaultyService]:
    with FaultyService() as service:
        yield service


@pytest.mark.timeout(400)
def test_every_row_comes_out_with_all_models(tmp_path, service):
    fates = {"g00003": "code:404", "g00005": "html", "g00007": "black", "g00009": "cut-source", "g00011": "429"}
    positions = {f"{int(name[1:]) * 0.01:.4f}": fate for name, fate in fates.items()}
    service.behaviour = lambda ask: positions.get(f"{float(ask.query['ra']):.4f}", "ok")
    catalog = write_catalog(tmp_path / "c.csv", 50)
    catalog.write_text(catalog.read_text() + "bad,10,95\n")
    output = tmp_path / "run"

    done = run("--catalog", catalog, "--output", output, *QUICK, *from_service(service), "--segmenter.where", "all")

    table = read(output)
    assert table["row_index"].tolist() == list(range(51))
    assert table["object_id"].tolist() == [f"g{i:05d}" for i in range(50)] + ["bad"]
    status = dict(zip(table["object_id"], table["status"], strict=True))
    assert {name for name, value in status.items() if value != "ok"} == {*fates, "bad"}
    assert status["g00003"] == "not_covered"
    assert status["g00005"] == "corrupt"
    assert status["g00007"] == "blank"
    assert status["g00011"] == "throttled"
    assert status["bad"] == "bad_coordinates"
    ok = table["status"] == "ok"
    for column in ("smooth-or-featured-dr5_smooth_fraction", "embedding", "spiral_mask", "reconstruction_error"):
        assert table[column][ok].notna().all(), column
        assert table[column][~ok].isna().all(), column
    assert table["error"][~ok].notna().all()
    summary = json.loads((output / "summary.json").read_text())
    assert summary["by_status"] == table["status"].value_counts().to_dict()
    assert set(summary["stages"]) == {"fetch", "decode", "classify", "embed", "segment", "write"}
    assert (output / "report.html").stat().st_size > 10_000
    assert "51 of 51 rows" in done.stderr
    assert "Traceback" not in done.stderr

    # The same command again finds nothing to do, and asks nobody for anything.
    asked = len(service.asks)
    run("--catalog", catalog, "--output", output, *QUICK, *from_service(service), "--segmenter.where", "all")
    assert len(service.asks) == asked
    pd.testing.assert_frame_equal(read(output), table)

    # The throttled row has healed.
    service.behaviour = lambda ask: "ok"
    flags = [*QUICK, *from_service(service), "--segmenter.where", "all", "--retry-failed"]
    run("--catalog", catalog, "--output", output, *flags)
    again = read(output)
    assert len(service.asks) == asked + 1
    assert again["row_index"].tolist() == list(range(51))
    assert again["status"][11] == "ok"
    assert again["attempts"][11] == 3
    others = table["row_index"] != 11
    pd.testing.assert_frame_equal(again[others], table[others])


@pytest.mark.timeout(500)
def test_an_interrupted_run_goes_on(tmp_path, service, monkeypatch):
    monkeypatch.setenv("GALAXRAY_TEST_MARK", str(os.getpid()))
    catalog = write_catalog(tmp_path / "c.csv", 320)
    output = tmp_path / "run"
    service.behaviour = lambda ask: "slow:0.02"
    flags = ["--catalog", catalog, "--output", output, "--stages", "fetch", *QUICK, *from_service(service)]
    flags += ["--cutouts.max_in_flight", "1"]
    done = output / "annotations"
    finished: dict[str, bytes] = {}

    for blow in (signal.SIGINT, signal.SIGKILL):
        process = start(*flags)
        enough = len(finished) + 2
        wait_for(lambda enough=enough: len(list(done.glob("*.parquet"))) >= enough, process)
        process.send_signal(blow)
        _, err = process.communicate(timeout=60)
        if blow == signal.SIGINT:
            assert process.returncode == 1
            assert "the same command goes on" in err
            assert "Traceback" not in err
        now = {path.name: path.read_bytes() for path in done.glob("*.parquet")}
        assert enough <= len(now) < 10
        assert finished.items() <= now.items(), "a finished unit was done again"
        finished = now
    until = time.monotonic() + 150
    while processes_of(os.getpid()):
        assert time.monotonic() < until, "Ray outlived the program"
        time.sleep(0.2)

    asked = len(service.asks)
    again = run(*flags)
    assert "going on with run" in again.stderr
    assert len(service.asks) - asked <= 320 - 32 * len(finished)
    for name, content in finished.items():
        assert (done / name).read_bytes() == content, "a finished unit was done again"
    table = read(output)
    assert table["row_index"].tolist() == list(range(320))
    assert (table["status"] == "ok").all()
    assert not list(output.glob(".staging/*"))


@pytest.mark.timeout(300)
def test_one_cpu_is_enough_and_files_need_no_service(tmp_path):
    (tmp_path / "images").mkdir()
    for row in range(39):
        galaxy = np.random.default_rng(row).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(galaxy).save(tmp_path / "images" / f"x{row}.jpg")
    lines = [f"g{row},x{row}.jpg" for row in range(40)]
    (tmp_path / "c.csv").write_text("\n".join(["object_id,path", *lines]) + "\n")
    flags = ["--cutouts.source", "files", "--cutouts.path_template", f"{tmp_path}/images/{{path}}"]
    flags += ["--compute.num_cpus", "1", "--compute.stall_timeout_s", "90", "--compute.actors", "separate"]
    run("--catalog", tmp_path / "c.csv", "--output", tmp_path / "run", *flags)
    table = read(tmp_path / "run")
    assert table["status"].tolist() == ["ok"] * 39 + ["not_covered"]
    assert table["image_url"][39] == f"{tmp_path}/images/x39.jpg"
    assert table["embedding"][:39].notna().all()


@pytest.mark.timeout(300)
def test_too_many_failed_rows_are_status_3_on_s3_too(tmp_path, service, s3_bucket):
    service.behaviour = lambda ask: "code:404" if float(ask.query["ra"]) < 0.045 else "ok"
    s3 = s3fs.S3FileSystem(skip_instance_cache=True)
    s3.put(str(write_catalog(tmp_path / "c.csv", 40)), f"{s3_bucket}/c.csv")
    flags = ["--catalog", f"{s3_bucket}/c.csv", "--output", f"{s3_bucket}/run", "--stages", "fetch", *QUICK]
    flags += from_service(service)
    failed = run(*flags, "--max-failed-fraction", "0.1", status=3)
    assert "12.5% of the rows failed" in failed.stderr
    s3.get(f"{s3_bucket}/run/annotations", str(tmp_path / "annotations"), recursive=True)
    table = read(tmp_path)
    assert table["row_index"].tolist() == list(range(40))
    assert (table["image_width"].notna() == (table["status"] == "ok")).all()  # decoded without models, too
    flags += ["--max-failed-fraction", "0.125"]
    run(*flags)
    assert "40 of 40 rows are done" in run(*flags, "--dry-run").stdout
    assert "limit was None, is 5" in run(*flags, "--dry-run", "--limit", "5", status=2).stderr


def test_a_stage_that_hangs_ends_the_run_with_its_name(tmp_path, service):
    service.behaviour = lambda ask: "hang"
    flags = ["--catalog", write_catalog(tmp_path / "c.csv", 5), "--output", tmp_path / "run", "--stages", "fetch"]
    flags += ["--compute.stall_timeout_s", "20", "--cutouts.base_url", service.url, "--cutouts.timeout_s", "600"]
    process = start(*flags)
    wait_for((tmp_path / "run" / "run.json").exists, process)
    assert f"worked on by process {process.pid} on" in run(*flags, status=2).stderr  # one program at a time
    _, stalled = process.communicate(timeout=150)
    assert process.returncode == 1
    assert "no progress" in stalled
    assert "at work: fetching" in stalled
    assert "Traceback" not in stalled
    assert not (tmp_path / "run" / "lock.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--catalog is missing"),
        (["--catalog", "nowhere.csv", "--output", "o"], "nowhere.csv"),
        (["--catalog", "pyproject.toml", "--output", "o"], "pyproject.toml"),
        (["--catalog", "{catalog}", "--output", "o", "--classifier.weights", "none.ckpt"], "none.ckpt"),
        (["--catalog", "{catalog}", "--output", "o", "--compute.device", "cuda"], "no GPU"),
        (["--catalog", "{catalog}", "--output", "o", "--columns.ra_column", "alpha"], "alpha"),
        (["--catalog", "{catalog}", "--output", "/proc/o"], "cannot be written to"),
        (["--catalog", "{catalog}", "--output", "/proc/o", "--dry-run"], "cannot be written to"),
        (["--catalog", "{catalog}", "--output", "o", "--cutouts.size_pixels", "5000"], "cutouts.size_pixels 5000"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, flags, message):
    catalog = write_catalog(tmp_path / "c.csv", 5)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process keeps its own handlers
    monkeypatch.setattr(sys, "argv", ["annotate_catalog.py", *(flag.format(catalog=catalog) for flag in flags)])
    assert main() == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (ROOT / "o").exists()


def test_the_program_ends_with_that_status(tmp_path):
    refused = run("--catalog", "nowhere.csv", "--output", tmp_path / "o", status=2)
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1


def test_a_dry_run_does_nothing(tmp_path, service):
    catalog = write_catalog(tmp_path / "c.csv", 1000)
    plan = run("--catalog", catalog, "--output", tmp_path / "run", "--dry-run", "--cutouts.base_url", service.url)
    for text in ("1,000 rows", "requests", "classify", "fetch", "Nothing was done"):
        assert text in plan.stdout
    assert not service.asks
    assert not (tmp_path / "run").exists()
