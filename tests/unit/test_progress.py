from __future__ import annotations

import io
import json
from collections import Counter

from galaxray.log import Log
from galaxray.progress import RunProgress


def test_a_log_gets_rate_eta_and_counts():
    stream = io.StringIO()
    counts = Counter(ok=20)
    with RunProgress(100, 20, lambda: counts, log=Log(stream=stream)) as progress:
        progress.update(10)
        first, _ = progress.counted_from
        counts.update(ok=38, blank=2)
        progress.update(30)
        line = progress.line(first + 10)
    # 30 rows in 10 s: neither the 20 rows of an earlier run nor the first unit, which had to wait for Ray, count
    assert line == "60 of 100 rows (60.0 %), 3.0 rows/s, 0:00:13 to go; ok 58, blank 2"


def test_what_an_earlier_program_did_may_be_counted_later():
    counts = Counter(ok=5)
    progress = RunProgress(1000, 700, lambda: counts, log=Log(stream=io.StringIO()))
    assert progress.line(progress.counted_from[0]) == "700 of 1,000 rows (70.0 %); ok 5, not counted yet 695"
    counts.update(ok=690, blank=5)
    assert progress.line(progress.counted_from[0]) == "700 of 1,000 rows (70.0 %); ok 695, blank 5"


def test_rows_that_are_done_again_have_a_progress_of_their_own():
    stream = io.StringIO()
    counts = Counter(ok=8, throttled=2)
    with RunProgress(2, 0, lambda: counts, what="tried again: ", log=Log(stream=stream)) as progress:
        counts.update(ok=1, throttled=-1)
        progress.update(2)
    assert stream.getvalue() == "tried again: 2 of 2 rows (100.0 %); ok 9, throttled 1\n"


def test_the_last_row_is_always_told():
    stream = io.StringIO()
    with RunProgress(2, 0, dict, log=Log(stream=stream)) as progress:
        progress.update(1)
        assert stream.getvalue() == ""  # not a line for each unit
        progress.update(1)
    assert "2 of 2 rows (100.0 %)" in stream.getvalue()


def test_a_terminal_gets_a_bar():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with RunProgress(2, 0, lambda: {"ok": 2}, log=Log(stream=stream)) as progress:
        progress.update(2)
    assert "2/2" in stream.getvalue()
    assert "ok 2" in stream.getvalue()


def test_a_machine_gets_the_same_in_json():
    stream = io.StringIO()
    log = Log("json", stream)
    log.run_id = "r1"
    with RunProgress(2, 0, lambda: Counter(ok=1, blank=1), log=log) as progress:
        progress.update(2)
    line = json.loads(stream.getvalue())
    assert (line["event"], line["run_id"], line["level"]) == ("progress", "r1", "info")
    assert (line["rows"], line["rows_done"], line["by_status"]) == (2, 2, {"ok": 1, "blank": 1})
    assert line["message"].startswith("2 of 2 rows (100.0 %)")
