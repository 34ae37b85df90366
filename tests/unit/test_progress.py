from __future__ import annotations

import io

from galaxray.progress import RunProgress


def test_a_log_gets_rate_eta_and_counts():
    stream = io.StringIO()
    with RunProgress(100, {"ok": 20}, stream) as progress:
        progress.update({"ok": 10})
        first, _ = progress.counted_from
        progress.update({"ok": 28, "blank": 2})
        line = progress.line(first + 10)
    # 30 rows in 10 s: neither the 20 rows of an earlier run nor the first unit, which had to wait for Ray, count
    assert line == "60 of 100 rows (60.0 %), 3.0 rows/s, 0:00:13 to go; ok 58, blank 2"


def test_rows_that_are_done_again_are_counted_once():
    with RunProgress(10, {"ok": 8, "throttled": 2}, io.StringIO()) as progress:
        progress.update({"ok": 9, "throttled": 1}, before={"ok": 8, "throttled": 2})
    assert progress.done == 10
    assert progress.by_status["ok"] == 9


def test_the_last_row_is_always_told():
    stream = io.StringIO()
    with RunProgress(2, {}, stream) as progress:
        progress.update({"ok": 1})
        assert stream.getvalue() == ""  # not a line for each unit
        progress.update({"ok": 1})
    assert "2 of 2 rows (100.0 %)" in stream.getvalue()


def test_a_terminal_gets_a_bar():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with RunProgress(2, {}, stream) as progress:
        progress.update({"ok": 2})
    assert "2/2" in stream.getvalue()
    assert "ok 2" in stream.getvalue()
