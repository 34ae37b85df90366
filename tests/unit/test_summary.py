from __future__ import annotations

import json
import time
from datetime import datetime

import pytest

from galaxray.ledger import Ledger
from galaxray.runs import Run
from galaxray.summary import Tally, failed_fraction, summarize, write_summary
from galaxray.units import UnitRecord


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(output=str(tmp_path), run_id="r1", num_rows=10, num_units=1, rows_per_unit=32, record={})


@pytest.fixture
def ledger(run) -> Ledger:
    ledger = Ledger(run)
    ledger.add(UnitRecord(unit=0, rows=10, by_status={"ok": 7, "blank": 3}, errors={"black": 3}), size=1)
    return ledger


def read(run: Run) -> dict:
    return json.loads(run.folder.read("summary.json"))


def test_counts_are_those_of_the_files(ledger):
    summary = summarize(ledger, Tally())
    assert (summary["rows"], summary["by_status"], summary["errors"]) == (10, {"ok": 7, "blank": 3}, {"black": 3})


def test_a_share_of_failed_rows_is_not_rounded_up(ledger):
    assert failed_fraction(summarize(ledger, Tally())) == 0.3


def test_a_run_that_finds_nothing_to_do_keeps_the_times(run, ledger):
    tally = Tally()
    tally.add(10, {"fetch": 2.0}, started=time.time())
    tally.add_requests({"200": 9, "429": 1}, retries=1, bytes=1000)
    tally.add_requests({"200": 1}, retries=0, bytes=100)
    write_summary(run, summarize(ledger, tally))
    before = read(run)
    write_summary(run, summarize(ledger, Tally()))
    assert read(run) == before
    assert before["stages"]["fetch"]["rows"] == before["rows_done_now"] == 10
    assert (before["requests"], before["retries"], before["bytes"]) == ({"200": 10, "429": 1}, 1, 1100)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"run_id": "r1"}', b'{"run_id": "r0", "stages": {"fetch": {}}}'])
def test_times_of_a_damaged_or_foreign_summary_are_not_kept(run, ledger, content):
    run.folder.write("summary.json", content)
    write_summary(run, summarize(ledger, Tally()))
    assert read(run)["stages"] == {}


def test_times_are_those_of_the_clock_that_only_runs():
    tally = Tally()
    tally._clock_began -= 100  # the program began 100 s ago
    tally.add(10, {"fetch": 2.0}, started=time.time() - 60)
    assert tally.first_s == pytest.approx(40, abs=1)
    assert tally.stream_s == pytest.approx(60, abs=1)


@pytest.mark.parametrize("off_s", [86_400, 3600, 30, -200, -86_400])
def test_a_clock_that_is_off_makes_no_absurd_times(ledger, off_s):
    """A worker's clock that is ahead or behind, or this machine's, set while the run goes on."""
    tally = Tally()
    tally._clock_began -= 100
    tally.add(10, {"fetch": 2.0, "write": 1.0}, started=time.time() - 20 + off_s)
    assert tally.stream_s == pytest.approx(3, abs=0.5)  # as long as the unit was worked on, at least
    summary = summarize(ledger, tally)
    assert summary["wall_s"] == pytest.approx(100, abs=1)
    assert 0 < summary["startup_s"] < summary["wall_s"]
    assert summary["stages"]["fetch"]["idle_fraction"] == pytest.approx(1 / 3, abs=0.1)
    lasted = datetime.fromisoformat(summary["finished"]) - datetime.fromisoformat(summary["started"])
    assert lasted.total_seconds() == pytest.approx(100, abs=2)
