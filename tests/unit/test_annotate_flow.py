"""What the program does before and after its stream, without Ray: find what is left, and say what came out."""

from __future__ import annotations

import io

import pytest
from test_runs import finished, plan, write_catalog

from galaxray.config import RunConfig
from galaxray.errors import RunError
from galaxray.ledger import Ledger
from galaxray.log import Log
from galaxray.runs import Run
from galaxray.summary import Tally, summarize
from pipelines.annotate_catalog import find_work, finish
from pipelines.unit_report import UnitReport


@pytest.fixture
def config(tmp_path) -> RunConfig:
    catalog = write_catalog(tmp_path / "c.csv", 100)
    return RunConfig(catalog=catalog, output=str(tmp_path / "run"), compute={"rows_per_unit": 32})


def done(run: Run, statuses: dict[int, str], *units: int) -> None:
    for unit in units:
        run.commit(unit, finished(run, unit, statuses))


def test_what_is_left_is_said_and_found_without_reading_a_file(config, monkeypatch):
    run = plan(config)
    done(run, {}, 0, 3)
    monkeypatch.setattr("galaxray.ledger.RecordReader.__call__", lambda *_: pytest.fail("a footer was read"))
    stream = io.StringIO()
    work = find_work(run, Log(stream=stream), retry_failed=False)
    assert work.is_left()
    assert (work.before.missing, work.to_retry()) == ([1, 2], [])
    assert stream.getvalue() == f"going on with run {run.run_id}: 36 of 100 rows are done\n"


def test_units_of_this_program_are_not_tried_again_at_once(config):
    run = plan(config)
    done(run, {1: "throttled"}, 0, 3)
    with (work := find_work(run, Log(stream=io.StringIO()), retry_failed=True)).counting:
        written = run.commit(1, finished(run, 1, {40: "throttled"}))
        work.ledger.add(written.record, written.size)
        assert work.to_retry() == [0]
        assert work.progress([0], again=True).total == 1


def test_a_finished_run_has_work_only_if_rows_may_be_retried(config):
    run = plan(config)
    done(run, {}, 0, 1, 2, 3)
    log = Log(stream=io.StringIO())
    for retry_failed in (False, True):
        with (work := find_work(run, log, retry_failed=retry_failed)).counting:
            assert not work.is_left()
    run.folder.remove("annotations/unit-00000000.parquet")
    done(run, {1: "unreachable"}, 0)
    with (work := find_work(run, log, retry_failed=True)).counting:
        assert work.is_left()


def test_a_damaged_file_is_found_where_rows_are_to_be_retried(config):
    run = plan(config)
    done(run, {}, 0, 1, 2, 3)
    run.folder.write("annotations/unit-00000002.parquet", b"half")
    work = find_work(run, Log(stream=io.StringIO()), retry_failed=True)
    with work.counting, pytest.raises(RunError, match=r"unit-00000002\.parquet cannot be read"):
        work.is_left()


@pytest.mark.parametrize(
    ("statuses", "allowed", "exit_status", "hint"),
    [
        ({}, 0.0, 0, ""),
        ({1: "blank"}, 1.0, 0, ""),
        (
            {1: "throttled", 40: "unreachable", 41: "corrupt"},
            0.02,
            3,
            "2 rows were throttled or not reached: run the same command with --retry-failed\n"
            "3.0% of the rows failed, more than --max-failed-fraction 0.02\n",
        ),
    ],
)
def test_the_end_says_what_may_be_retried(config, capsys, statuses, allowed, exit_status, hint):
    run = plan(config)
    done(run, statuses, 0, 1, 2, 3)
    ledger = Ledger(run)
    ledger.verify()
    stream = io.StringIO()
    config = config.model_copy(update={"max_failed_fraction": allowed})
    assert finish(run, config, summarize(ledger, Tally()), Log(stream=stream)) == exit_status
    first, _, rest = stream.getvalue().partition("\n")
    assert first.startswith("100 rows: ok ")
    assert rest == hint
    assert "report.html" in capsys.readouterr().out


@pytest.mark.parametrize("retry", [False, True])
def test_a_report_of_a_unit_comes_as_it_was_sent(config, retry):
    run = plan(config)
    done(run, {1: "throttled"}, 0)
    report = UnitReport(
        written=run.commit(0, finished(run, 0, retry=retry), retry=retry),
        rows=1,
        seconds={"fetch": 1.5},
        started=12.5,
        fetched={"answers": {"200": 1}, "bytes": 7, "retries": 0},
    )
    assert UnitReport.from_json(report.to_json()) == report
    assert (report.written.before is not None) == retry
