from __future__ import annotations

import json

import pytest

from galaxray.runs import Run, UnitRecord
from galaxray.summary import Tally, failed_fraction, summarize, write_summary


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(output=str(tmp_path), run_id="r1", num_rows=10, num_units=1, rows_per_unit=32, record={})


RECORDS = [UnitRecord(unit=0, rows=10, by_status={"ok": 7, "blank": 3}, errors={})]


def read(run: Run) -> dict:
    return json.loads(run.folder.read("summary.json"))


def test_a_share_of_failed_rows_is_not_rounded_up(run):
    assert failed_fraction(summarize(run, RECORDS, Tally(began=0.0))) == 0.3


def test_a_run_that_finds_nothing_to_do_keeps_the_times(run):
    tally = Tally(began=0.0)
    tally.add(10, {"fetch": 2.0}, started=1.0)
    write_summary(run, summarize(run, RECORDS, tally))
    before = read(run)
    write_summary(run, summarize(run, RECORDS, Tally(began=0.0)))
    assert read(run) == before
    assert before["stages"]["fetch"]["rows"] == before["rows_done_now"] == 10


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"run_id": "r1"}', b'{"run_id": "r0", "stages": {"fetch": {}}}'])
def test_times_of_a_damaged_or_foreign_summary_are_not_kept(run, content):
    run.folder.write("summary.json", content)
    write_summary(run, summarize(run, RECORDS, Tally(began=0.0)))
    assert read(run)["stages"] == {}
