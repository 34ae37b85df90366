"""A whole run at a service with every fault, and at one that dies in the middle."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
from faulty_service import Ask, FaultyService
from programs import QUICK, end_of, read, run, start, wait_for

STEP_DEG = 0.01
ROWS_PER_FAULT = 3
TRIES, TIMEOUT_S, BACKOFF_S, RETRY_AFTER_S = 3, 2.0, 10.0, 1.0
SLACK_S = 20.0  # for a busy machine
DEADLINE_S = TRIES * TIMEOUT_S + (TRIES - 1) * (BACKOFF_S + RETRY_AFTER_S) + SLACK_S
"""How long a row may be asked for, from its first request to its last: tries x time-out, and the waits between."""


class Fate(NamedTuple):
    """What a service does to a row, and what becomes of it."""

    fault: str
    status: str
    tries: int
    word: str = ""
    heals_after: int = 1_000_000


FATES = [
    Fate("ok", "ok", 1),
    Fate("png", "ok", 1),
    Fate("chunked", "ok", 1),
    Fate("gzip", "ok", 1),
    Fate("slow:0.5", "ok", 1),
    Fate("redirect:/moved?size=64", "ok", 1),
    # They heal.
    Fate("429:1", "ok", 2, heals_after=1),
    Fate("429-date:1", "ok", 2, heals_after=1),
    Fate("429", "ok", 3, heals_after=2),
    Fate("503:1", "ok", 2, heals_after=1),
    Fate("code:500", "ok", 3, heals_after=2),
    Fate("code:502", "ok", 3, heals_after=2),
    Fate("code:408", "ok", 2, heals_after=1),
    Fate("reset", "ok", 3, heals_after=2),
    Fate("close", "ok", 3, heals_after=2),
    Fate("hang", "ok", 2, heals_after=1),
    Fate("hang-body", "ok", 2, heals_after=1),
    Fate("drip", "ok", 2, heals_after=1),
    Fate("cut-length", "ok", 3, heals_after=2),
    Fate("cut-chunked", "ok", 3, heals_after=2),
    Fate("cut-source", "ok", 2, heals_after=1),
    Fate("html", "ok", 2, heals_after=1),
    Fate("empty", "ok", 2, heals_after=1),
    # They do not heal, but may another day.
    Fate("429", "throttled", 3, "HTTP 429"),
    Fate("429:0", "throttled", 3, "HTTP 429"),
    Fate("429-date:1", "throttled", 3, "HTTP 429"),
    Fate("503", "throttled", 3, "HTTP 503"),
    Fate("code:500", "unreachable", 3, "HTTP 500"),
    Fate("code:502", "unreachable", 3, "HTTP 502"),
    Fate("code:403", "unreachable", 1, "HTTP 403"),
    Fate("reset", "unreachable", 3, "reset by peer"),
    Fate("close", "unreachable", 3, "Disconnected"),
    Fate("garbage", "unreachable", 3),
    Fate("hang", "unreachable", 3, "timeout"),
    Fate("hang-body", "unreachable", 3, "timeout"),
    Fate("drip", "unreachable", 3, "timeout"),
    Fate("cut-length", "unreachable", 3, "ClientPayloadError"),
    Fate("cut-chunked", "unreachable", 3, "ClientPayloadError"),
    Fate("redirect", "unreachable", 1, "more than 3 redirects"),
    Fate("redirect:http://169.254.169.254/latest/meta-data", "unreachable", 1, "another host"),
    Fate("redirect:http://127.0.0.1:1/", "unreachable", 1, "another host"),
    Fate("redirect:file:///etc/passwd", "unreachable", 1, "redirected"),
    # They are what they are.
    Fate("code:404", "not_covered", 1, "HTTP 404"),
    Fate("code:400", "corrupt", 1, "HTTP 400"),
    Fate("cut-close", "corrupt", 2, "truncated JPEG"),
    Fate("cut-source", "corrupt", 2, "truncated JPEG"),
    Fate("html", "corrupt", 2, "HTML"),
    Fate("text", "corrupt", 2, "no overlap"),
    Fate("fits", "corrupt", 2, "not a JPEG or PNG"),
    Fate("gif", "corrupt", 2, "not a JPEG or PNG"),
    Fate("wrong-size", "corrupt", 1, "128 x 128"),
    Fate("bomb", "corrupt", 1, "60000 x 60000"),
    Fate("gzip-bomb:20000000", "corrupt", 1, "max_bytes"),
    Fate("huge-length", "corrupt", 1, "max_bytes"),
    Fate("endless", "corrupt", 1, "max_bytes"),
    Fate("empty", "blank", 2, "0 bytes"),
    Fate("black", "blank", 1),
    Fate("constant", "blank", 1),
]
REFUSING = [fate for fate in FATES if fate.fault.startswith(("429", "503"))]
OTHERS = [fate for fate in FATES if fate not in REFUSING]
TURNS = ROWS_PER_FAULT * OTHERS + 2 * REFUSING  # refusals last: they slow a run down, as they should
PLAN = [fate for turn in TURNS for fate in (FATES[0], turn)]
"""The rows. There is a good answer between two faults: a service that gave nothing else would count as down."""
ROWS = len(PLAN)


def row_of(ask: Ask) -> int:
    return round(float(ask.query["ra"]) / STEP_DEG)


def every_fault(ask: Ask) -> str:
    if ask.path == "/moved":
        return "ok"
    fate = PLAN[row_of(ask)]
    return fate.fault if ask.attempt <= fate.heals_after else "ok"


@pytest.fixture
def service() -> Iterator[FaultyService]:
    with FaultyService() as service:
        yield service


def write_catalog(path: Path, rows: int) -> Path:
    lines = [f"g{row},{row * STEP_DEG:.4f},{row % 90}" for row in range(rows)]
    path.write_text("\n".join(["object_id,ra,dec", *lines]) + "\n")
    return path


def asks_by_row(service: FaultyService) -> dict[int, list[Ask]]:
    asks = defaultdict(list)
    for ask in service.asks:
        if ask.path != "/moved":
            asks[row_of(ask)].append(ask)
    return asks


def flags_of(
    service: FaultyService, catalog: Path, output: Path, *, timeout_s: float = TIMEOUT_S, backoff_s: float = BACKOFF_S
) -> list[object]:
    flags: list[object] = ["--catalog", catalog, "--output", output, *QUICK, "--cutouts.base_url", service.url]
    flags += ["--cutouts.size_pixels", 64, "--cutouts.requests_per_s", "none", "--cutouts.max_bytes", 2**20]
    flags += ["--cutouts.max_attempts", TRIES, "--cutouts.timeout_s", timeout_s]
    return [*flags, "--cutouts.backoff_s", 0.05, "--cutouts.max_backoff_s", backoff_s]


def assert_scored(table: pd.DataFrame) -> None:
    """Predictions and the image's own columns are there if and only if the row is ok, and the reason if not."""
    ok = table["status"] == "ok"
    for column in table.columns:
        if column == "label" or column.endswith(("_fraction", "_90pc-lower", "_proportion-asked")):
            assert not table[column][~ok].notna().any(), column
    assert (table["smooth-or-featured-dr5_smooth_fraction"].notna() == ok).all()
    assert (table["error"].isna() == ok).all()


@pytest.mark.timeout(500)
def test_every_fault_comes_to_its_end(tmp_path, service):
    service.behaviour = every_fault
    flags = flags_of(service, write_catalog(tmp_path / "c.csv", ROWS), tmp_path / "run")
    flags += ["--stages", "fetch,classify", "--cutouts.max_in_flight", 64]
    said = run(*flags)

    table = read(tmp_path / "run")
    assert table["row_index"].tolist() == list(range(ROWS))
    found = list(zip(table["status"], table["attempts"], table["error"].fillna(""), strict=True))
    wrong = {
        fate: found[row]
        for row, fate in enumerate(PLAN)
        if found[row][:2] != (fate.status, fate.tries) or fate.word not in found[row][2]
    }
    assert not wrong
    assert_scored(table)

    asks = asks_by_row(service)
    for row, fate in enumerate(PLAN):
        requests = 4 if fate.fault == "redirect" else fate.tries
        assert len(asks[row]) == requests, fate
        assert asks[row][-1].time - asks[row][0].time < DEADLINE_S, fate

    transient = table["status"].isin(["throttled", "unreachable"])
    assert f"{transient.sum()} rows were throttled or not reached" in said
    assert "--retry-failed" in said
    before = len(service.asks)
    service.behaviour = lambda ask: "ok"
    run(*flags, "--retry-failed")
    again = read(tmp_path / "run")
    assert len(service.asks) - before == transient.sum()
    assert (again["status"][transient] == "ok").all()
    assert_scored(again)
    pd.testing.assert_frame_equal(again[~transient], table[~transient])


@pytest.mark.timeout(500)
@pytest.mark.long
@pytest.mark.parametrize(("fault", "status"), [("hang", "unreachable"), ("503", "throttled")])
def test_a_service_that_dies_in_the_middle(tmp_path, service, fault, status):
    rows, alive, in_flight, timeout_s, backoff_s = 2000, 400, 16, 1.0, 2.0
    patience_s = TRIES * backoff_s  # nothing but failures for so long, and then one request per backoff_s
    service.behaviour = lambda ask: "ok" if len(service.asks) <= alive else fault
    catalog = write_catalog(tmp_path / "c.csv", rows)
    flags = flags_of(service, catalog, tmp_path / "run", timeout_s=timeout_s, backoff_s=backoff_s)
    flags += ["--stages", "fetch", "--cutouts.max_in_flight", in_flight]
    process = start(*flags)
    wait_for(lambda: len(service.asks) > alive, process)
    died = time.monotonic()
    said = end_of(process, timeout_s=120)
    took_s = time.monotonic() - died

    table = read(tmp_path / "run")
    assert table["row_index"].tolist() == list(range(rows))
    counts = table["status"].value_counts().to_dict()
    assert set(counts) == {"ok", status}
    assert counts["ok"] >= alive - in_flight
    assert f"{counts[status]:,} rows were throttled or not reached" in said
    assert "--retry-failed" in said
    most_asked = in_flight * (patience_s / timeout_s + TRIES) + took_s / backoff_s
    assert len(service.asks) - alive <= 2 * most_asked
    assert table["error"].str.contains("not asked: the service has").sum() >= counts[status] - 2 * most_asked

    service.behaviour = lambda ask: "ok"
    run(*flags, "--retry-failed")
    again = read(tmp_path / "run")
    assert again["row_index"].tolist() == list(range(rows))
    assert (again["status"] == "ok").all()
