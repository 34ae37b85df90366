from __future__ import annotations

import re
import threading

import pytest
from test_runs import finished, plan, write_catalog

from galaxray.config import RunConfig
from galaxray.errors import RunError
from galaxray.ledger import Counting, Ledger
from galaxray.runs import Run
from galaxray.storage import LocalFolder, S3Folder
from galaxray.units import RecordReader, UnitRecord


@pytest.fixture(params=["local", "s3"])
def output(request, tmp_path) -> str:
    return str(tmp_path / "run") if request.param == "local" else request.getfixturevalue("s3_bucket") + "/run"


@pytest.fixture
def tails(monkeypatch) -> list[tuple[str, int]]:
    """Reads of the ends of files: name and bytes."""
    reads = []
    for kind in (LocalFolder, S3Folder):

        def noted(self, name, num_bytes, tail=kind.tail):
            reads.append((name, num_bytes))
            return tail(self, name, num_bytes)

        monkeypatch.setattr(kind, "tail", noted)
    return reads


def partly_done(tmp_path, output: str, rows: int = 200) -> Run:
    """Units of 32 rows, the last of 8; 0, 1 and the last are done."""
    config = RunConfig(catalog=write_catalog(tmp_path / "c.csv", rows), output=output, compute={"rows_per_unit": 32})
    run = plan(config)
    for unit, statuses in ((0, {3: "throttled", 4: "blank"}), (1, {}), (run.num_units - 1, {rows - 1: "unreachable"})):
        run.commit(unit, finished(run, unit, statuses))
    return run


def test_rows_are_known_from_the_listing_alone(tmp_path, output, tails):
    run = partly_done(tmp_path, output)
    listing = run.listing()
    assert (listing.units, listing.missing) == ([0, 1, 6], [2, 3, 4, 5])
    assert (run.rows_in(listing.units), run.rows_in(listing.missing), run.rows_in([])) == (72, 128, 0)
    assert tails == []


def test_each_footer_is_read_once_in_one_request(tmp_path, output, tails):
    run = partly_done(tmp_path, output)
    ledger = Ledger(run)
    with Counting(ledger, run.listing()) as counting:
        counting.wait()
    assert ledger.by_status == {"ok": 69, "throttled": 1, "blank": 1, "unreachable": 1}
    assert ledger.errors == {"it was throttled": 1, "it was blank": 1, "it was unreachable": 1}
    assert ledger.retryable() == [0, 6]
    assert (ledger.transient_in([0, 6]), ledger.transient_in([1]), ledger.transient_in([])) == (2, 0, 0)
    for unit in run.pending():
        written = run.commit(unit, finished(run, unit))
        ledger.add(written.record, written.size)
    ledger.verify()
    assert sorted(name for name, _ in tails) == [f"annotations/unit-{unit:08d}.parquet" for unit in (0, 1, 6)]
    assert ledger.by_status.total() == 200


def test_rows_that_were_tried_again_are_counted_once(tmp_path):
    run = partly_done(tmp_path, str(tmp_path / "run"))
    ledger = Ledger(run)
    ledger.count(run.listing())
    written = run.commit(0, finished(run, 0, {3: "unreachable"}, retry=True), retry=True)
    ledger.add(written.record, written.size, before=written.before)
    assert ledger.by_status == {"ok": 69, "unreachable": 2, "blank": 1}
    assert ledger.errors == {"it was unreachable": 2, "it was blank": 1}


def test_a_file_that_another_program_has_written_since_is_counted_anew(tmp_path):
    """Workers of a killed program may outlive it for a moment, and write a unit once more."""
    run = partly_done(tmp_path, str(tmp_path / "run"))
    ledger = Ledger(run)
    for unit in run.pending():
        written = run.commit(unit, finished(run, unit))
        ledger.add(written.record, written.size)
    (tmp_path / "run" / "annotations" / "unit-00000002.parquet").unlink()  # they looked before it was there
    run.commit(2, finished(run, 2, {70: "throttled"}))
    ledger.verify()
    assert ledger.by_status == {"ok": 196, "throttled": 2, "blank": 1, "unreachable": 1}


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing", b"PAR1\xff\xff\xff\xffPAR1"])
def test_a_damaged_file_ends_the_counting_with_its_name(tmp_path, content):
    run = partly_done(tmp_path, str(tmp_path / "run"))
    run.folder.write("annotations/unit-00000001.parquet", content)
    ledger = Ledger(run)
    with Counting(ledger, run.listing()) as counting:
        with pytest.raises(RunError, match=r"unit-00000001.parquet cannot be read.*delete it and run again"):
            counting.wait()
        with pytest.raises(RunError, match="cannot be read"):
            counting.check()
    for unit in run.pending():
        written = run.commit(unit, finished(run, unit))
        ledger.add(written.record, written.size)
    with pytest.raises(RunError, match="cannot be read"):
        ledger.verify()


@pytest.mark.parametrize(
    "record",
    [
        {"rows": 31, "by_status": {"ok": 31}},
        {"rows": 32, "by_status": {"ok": 31}},
        {"rows": 32, "by_status": {"ok": 31, "strange": 1}},
    ],
)
def test_a_file_with_other_rows_than_the_catalogue_is_named(tmp_path, record):
    ledger = Ledger(partly_done(tmp_path, str(tmp_path / "run")))
    with pytest.raises(RunError, match=r"unit-00000002.parquet has .* the catalogue has 32 rows: delete it"):
        ledger.add(UnitRecord(unit=2, errors={}, **record), size=1)


def test_a_footer_of_any_length_is_read(tmp_path, monkeypatch, tails):
    run = partly_done(tmp_path, str(tmp_path / "run"))
    monkeypatch.setattr("galaxray.units.FOOTER_BYTES", 100)
    read = RecordReader(run.folder, run.run_id)
    assert [read(unit).unit for unit in (0, 1, 6)] == [0, 1, 6]
    assert len(tails) == 4  # the first told how long footers are
    assert max(num_bytes for _, num_bytes in tails) < 20_000


def test_counting_ends_when_the_run_does(tmp_path, monkeypatch):
    run = partly_done(tmp_path, str(tmp_path / "run"))
    reached, go_on = threading.Event(), threading.Event()

    def slow(self, unit):
        reached.set()
        go_on.wait(30)
        return UnitRecord(unit=unit, rows=0, by_status={}, errors={})

    monkeypatch.setattr(RecordReader, "__call__", slow)
    monkeypatch.setattr("galaxray.ledger.NUM_THREADS", 1)
    ledger = Ledger(run)
    with Counting(ledger, run.listing()) as counting:
        counting.begin()
        assert reached.wait(30)
        threading.Timer(0.1, go_on.set).start()
    assert not [thread for thread in threading.enumerate() if thread.name == "galaxray-count"]


def test_many_different_errors_do_not_fill_the_memory(tmp_path):
    run = Run(output=str(tmp_path), run_id="r", num_rows=20_000, num_units=2000, rows_per_unit=10, record={})
    ledger = Ledger(run)
    for unit in range(2000):
        errors = {"it was blank": 5, **{f"odd {unit} {number}": 1 for number in range(5)}}
        ledger.add(UnitRecord(unit=unit, rows=10, by_status={"blank": 10}, errors=errors), size=1)
    assert ledger.errors["it was blank"] == 10_000
    assert len(ledger.errors) == 50
    assert len(ledger._errors) <= 1000


def test_progress_of_the_counting_is_told(tmp_path):
    run, told = partly_done(tmp_path, str(tmp_path / "run")), []
    Ledger(run).count(run.listing(), tell=lambda read, wanted: told.append((read, wanted)))
    assert told == [(3, 3)]


def test_a_missing_unit_is_told(tmp_path):
    run = partly_done(tmp_path, str(tmp_path / "run"))
    with pytest.raises(RunError, match=re.escape("3 units are there, 7 are planned; run it again")):
        Ledger(run).verify()
