from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from test_runs import finished, plan, write_catalog

from galaxray.config import RunConfig
from galaxray.errors import ConfigError
from galaxray.lock import RunLock
from galaxray.runs import Run
from galaxray.status import RunWatch
from galaxray.storage import LocalFolder, S3Folder
from pipelines.status import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["local", "s3"])
def output(request, tmp_path) -> str:
    return str(tmp_path / "run") if request.param == "local" else request.getfixturevalue("s3_bucket") + "/run"


def planned(tmp_path, output: str, rows: int = 320) -> Run:
    """Ten units of 32 rows."""
    config = RunConfig(catalog=write_catalog(tmp_path / "c.csv", rows), output=output, compute={"rows_per_unit": 32})
    return plan(config)


def finish(run: Run, units: range, *, ago_s: float = 0.0, every_s: float = 0.0, statuses=None) -> None:
    """Commit units; the last as written ``ago_s`` before now, one every ``every_s``."""
    for unit in units:
        run.commit(unit, finished(run, unit, statuses))
        if every_s:
            at = time.time() - ago_s - every_s * (units.stop - 1 - unit)
            os.utime(Path(run.output, f"annotations/unit-{unit:08d}.parquet"), (at, at))


def test_a_run_that_goes_on(tmp_path, output):
    run = planned(tmp_path, output)
    finish(run, range(3), statuses={1: "throttled", 2: "blank", 3: "blank"})
    with RunLock(run.folder):
        status = RunWatch(output).look()
    assert (status.run_id, status.rows, status.rows_done) == (run.run_id, 320, 96)
    assert status.by_status == {"ok": 93, "blank": 2, "throttled": 1}
    assert status.errors == {"it was blank": 2, "it was throttled": 1}
    assert status.is_at_work
    assert f"process {os.getpid()} on" in str(status.program)
    assert (status.rows_to_retry, status.problem) == (1, None)
    assert json.loads(json.dumps(asdict(status)))["rows_done"] == 96


def test_the_rate_is_that_of_the_files_of_the_last_minutes(tmp_path):
    run = planned(tmp_path, str(tmp_path / "run"))
    finish(run, range(2), ago_s=3600, every_s=100)
    finish(run, range(2, 6), every_s=16)
    with RunLock(run.folder):
        status = RunWatch(run.output).look()
    assert status.rows_per_s == pytest.approx(2, rel=0.1)  # three units of 32 rows in 48 s
    assert status.seconds_left == pytest.approx(64, rel=0.1)
    assert status.rows_per_s_overall == pytest.approx(5 * 32 / 3652, rel=0.1)
    text = status.describe()
    assert "rows     192 of 320 (60.0 %)" in text
    assert "2.0 rows/s lately" in text
    assert "to go    0:01:0" in text
    assert "at work" in text


def test_without_a_program_there_is_no_rate_and_the_command_goes_on(tmp_path):
    run = planned(tmp_path, str(tmp_path / "run"))
    assert RunWatch(run.output).look().rows_per_s_overall is None
    finish(run, range(4), every_s=10)
    status = RunWatch(run.output).look()
    assert (status.rows_per_s, status.seconds_left, status.program, status.is_at_work) == (None, None, None, False)
    assert status.advice == "run the same command again: it goes on from here"


def test_what_to_do_with_a_finished_run(tmp_path):
    run = planned(tmp_path, str(tmp_path / "run"))
    finish(run, range(10), statuses={1: "throttled", 2: "unreachable", 3: "corrupt"})
    watch = RunWatch(run.output)
    assert "run the same command again" in watch.look().advice  # it ended before its summary
    run.folder.write("summary.json", b"{}")
    assert watch.look().advice == "2 rows were throttled or not reached: run the same command with --retry-failed"
    run.commit(0, finished(run, 0, retry=True), retry=True)
    assert watch.look().advice == "nothing: the run is finished"


def test_each_look_reads_new_files_only(tmp_path, output, monkeypatch):
    run = planned(tmp_path, output)
    finish(run, range(3))
    reads = []
    for kind in (LocalFolder, S3Folder):

        def noted(self, name, num_bytes, tail=kind.tail):
            reads.append(name)
            return tail(self, name, num_bytes)

        monkeypatch.setattr(kind, "tail", noted)
    watch = RunWatch(output)
    watch.look()
    assert len(reads) == 3
    finish(run, range(3, 5))
    assert watch.look().by_status == {"ok": 160}
    assert sorted(reads[3:]) == [f"annotations/unit-{unit:08d}.parquet" for unit in (3, 4)]


def test_a_program_that_died_is_told_from_one_that_works(tmp_path):
    run = planned(tmp_path, str(tmp_path / "run"))
    with RunLock(run.folder):
        lock = json.loads(run.folder.read("lock.json"))
    run.folder.write("lock.json", json.dumps(lock | {"process_start": "1"}).encode())
    status = RunWatch(run.output).look()
    assert not status.is_at_work
    assert "dead" in status.describe()


def test_a_program_on_another_machine_is_alive_if_it_renews_its_lock(tmp_path):
    run = planned(tmp_path, str(tmp_path / "run"))
    lock = {"id": "x", "host": "elsewhere", "place": "elsewhere", "pid": 1, "process_start": "1", "renewals": 0}
    run.folder.write("lock.json", json.dumps(lock).encode())
    watch = RunWatch(run.output)
    assert not watch.look(patience_s=0.2).is_at_work
    run.folder.write("lock.json", json.dumps(lock | {"renewals": 1}).encode())
    status = watch.look(patience_s=0.2)
    assert status.is_at_work
    assert status.program == "process 1 on elsewhere"
    assert watch.look(patience_s=0.2).is_at_work  # the next renewal is not due yet


def test_a_damaged_file_is_told_and_the_rest_counted(tmp_path):
    run = planned(tmp_path, str(tmp_path / "run"))
    finish(run, range(3))
    run.folder.write("annotations/unit-00000007.parquet", b"half")
    status = RunWatch(run.output).look()
    assert "unit-00000007.parquet cannot be read" in str(status.problem)
    run.folder.remove("annotations/unit-00000007.parquet")
    run.folder.write("annotations/mine.parquet", b"")
    status = RunWatch(run.output).look()
    assert "mine.parquet is no file of this run" in str(status.problem)
    assert status.rows_done == 96


def test_nothing_is_written(tmp_path):
    run = planned(tmp_path, str(tmp_path / "run"))
    finish(run, range(3))
    before = {path: path.stat().st_mtime_ns for path in Path(run.output).rglob("*")}
    RunWatch(run.output).look()
    assert {path: path.stat().st_mtime_ns for path in Path(run.output).rglob("*")} == before


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no run \(there is no run.json\): name a run folder"):
        RunWatch(str(tmp_path / "nothing"))


def test_the_program_prints_lines_or_json(tmp_path):
    run = planned(tmp_path, str(tmp_path / "run"))
    finish(run, range(3))
    program = [sys.executable, "pipelines/status.py", run.output]
    shown = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "rows     96 of 320 (30.0 %)" in shown.stdout
    shown = subprocess.run([*program, "--json", "--watch"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout)["by_status"] == {"ok": 96}  # one line, as nobody works on it
    assert shown.stderr == ""


@pytest.mark.parametrize("arguments", [["{folder}"], [], ["{folder}", "--wach"], ["ftp://x"], ["s3://"]])
def test_what_cannot_be_shown_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["status.py", *(text.format(folder=tmp_path) for text in arguments)])
    assert main() == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
