from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from galaxray.log import Log
from galaxray.settings import read_settings
from pipelines.annotate_catalog import main

ROOT = Path(__file__).resolve().parents[2]


def test_people_read_lines():
    stream = io.StringIO()
    log = Log(stream=stream)
    log.say("resume", "going on with run r1", rows=3)
    log.say("error", "no such file", level="error", exit_status=2)
    assert stream.getvalue() == "going on with run r1\nerror: no such file\n"


def test_machines_read_one_object_per_line():
    stream = io.StringIO()
    log = Log("json", stream)
    log.say("catalogue", "reading\n\x1b[2J", rows=3)
    log.run_id = "r1"
    log.say("error", "no such file", level="error", exit_status=2)
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["run_id"], first["message"], first["rows"]) == (None, "reading\n\x1b[2J", 3)
    assert {name: second[name] for name in ("level", "event", "run_id", "message", "exit_status")} == {
        "level": "error",
        "event": "error",
        "run_id": "r1",
        "message": "no such file",
        "exit_status": 2,
    }
    assert abs((datetime.fromisoformat(second["time"]) - datetime.now(UTC)).total_seconds()) < 60


def test_a_bar_is_for_people_only():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert Log("text", Terminal()).is_for_a_terminal
    assert not Log("json", Terminal()).is_for_a_terminal
    assert not Log("text", io.StringIO()).is_for_a_terminal


@pytest.mark.parametrize(
    "flags",
    [
        ["--log", "json", "--catalog", "nowhere.csv", "--output", "{tmp}/o"],
        ["--log=json", "--katalog", "x"],
    ],
)
def test_errors_are_objects_too_also_of_wrong_flags(tmp_path, monkeypatch, capsys, flags):
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process keeps its own handlers
    monkeypatch.setattr(sys, "argv", ["annotate_catalog.py", *(flag.format(tmp=tmp_path) for flag in flags)])
    assert main() == 2
    line = json.loads(capsys.readouterr().err)
    assert (line["level"], line["exit_status"]) == ("error", 2)
    assert not line["message"].startswith("error")


def test_a_format_that_does_not_exist_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["annotate_catalog.py", "--catalog", "c", "--output", "o", "--log", "xml"])
    assert main() == 2
    assert "xml" in capsys.readouterr().err
    assert read_settings(["--catalog", "c", "--output", "o"]).log == "text"


def test_workers_name_the_run():
    program = (
        "from galaxray.log import name_run_in_logs; import logging; name_run_in_logs('r1'); name_run_in_logs('r1')"
    )
    program += "; logging.getLogger('galaxray.cutouts.fetcher').error('cannot fetch row 3')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.count("\n") == 1
    assert "ERROR run r1 galaxray.cutouts.fetcher: cannot fetch row 3" in done.stderr
