"""What becomes of a row, by what a service answers. Every answer is a real one, over loopback HTTP."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from cutout_batches import make_batch, quick_config
from faulty_service import Ask, FaultyService
from yarl import URL

from galaxray.config import CutoutConfig
from galaxray.cutouts import Fetcher, GovernedLimiter, Governor, Grant, Report
from galaxray.cutouts.http import user_agent
from galaxray.cutouts.replies import TryError, follow
from galaxray.errors import ConfigError


@pytest.fixture
def service() -> Iterator[FaultyService]:
    with FaultyService() as service:
        yield service


FOR_GOOD = [
    # what the service does, status, attempts, a word of the error
    ("code:404", "not_covered", 1, "HTTP 404 Not Found"),
    ("code:410", "not_covered", 1, "HTTP 410"),
    ("429", "throttled", 3, "HTTP 429"),
    ("503", "throttled", 3, "HTTP 503"),
    ("code:500", "unreachable", 3, "HTTP 500 Oh no"),
    ("code:502", "unreachable", 3, "HTTP 502"),
    ("code:408", "unreachable", 3, "HTTP 408"),
    ("code:403", "unreachable", 1, "HTTP 403"),
    ("code:400", "corrupt", 1, "HTTP 400"),
    ("code:206", "corrupt", 1, "HTTP 206"),
    ("reset", "unreachable", 3, "reset by peer"),
    ("close", "unreachable", 3, "Disconnected"),
    ("garbage", "unreachable", 3, ""),
    ("cut-length", "unreachable", 3, "ClientPayloadError"),
    ("cut-chunked", "unreachable", 3, "ClientPayloadError"),
    ("cut-close", "corrupt", 2, "truncated JPEG"),
    ("cut-source", "corrupt", 2, "truncated JPEG"),
    ("html", "corrupt", 2, "HTML"),
    ("text", "corrupt", 2, "'no overlap'"),
    ("fits", "corrupt", 2, "not a JPEG or PNG"),
    ("empty", "blank", 2, "0 bytes"),
    ("wrong-size", "corrupt", 1, "128 x 128 pixels instead of 64 x 64"),
    ("bomb", "corrupt", 1, "60000 x 60000"),
    ("gzip-bomb:20000000", "corrupt", 1, "max_bytes"),
    ("huge-length", "corrupt", 1, "max_bytes"),
    ("endless", "corrupt", 1, "max_bytes"),
    ("redirect", "unreachable", 1, "more than 3 redirects"),
    ("redirect:http://169.254.169.254/latest/meta-data", "unreachable", 1, "another host: http://169.254.169.254"),
    ("redirect:http://127.0.0.1:1/", "unreachable", 1, "another host"),
    ("redirect:file:///etc/passwd", "unreachable", 1, "redirected"),
    ("redirect:http://[", "unreachable", 1, "redirected"),
]


@pytest.mark.parametrize(("behaviour", "status", "attempts", "word"), FOR_GOOD)
def test_a_fault_that_lasts(service: FaultyService, behaviour: str, status: str, attempts: int, word: str) -> None:
    service.behaviour = lambda ask: behaviour
    with Fetcher(quick_config(service.url, max_bytes=2**20)) as fetcher:
        batch = fetcher.fetch(make_batch([150.0]))
    assert (batch["status"][0], int(batch["attempts"][0])) == (status, attempts)
    assert word in batch["error"][0]
    assert len(batch["error"][0]) <= 200
    assert batch["image_bytes"][0] is None
    assert batch["image_sha256"][0] is None
    assert batch["image_url"][0].startswith(service.url)


HEALING = ["429:0", "503", "code:500", "code:502", "code:408", "reset", "close", "cut-length", "cut-chunked"]
HEALING_AT_ONCE = ["cut-close", "cut-source", "html", "text", "empty", "fits"]


@pytest.mark.parametrize(("behaviour", "failures"), [*((f, 2) for f in HEALING), *((f, 1) for f in HEALING_AT_ONCE)])
def test_a_fault_that_heals(service: FaultyService, behaviour: str, failures: int) -> None:
    service.behaviour = lambda ask: behaviour if ask.attempt <= failures else "ok"
    with Fetcher(quick_config(service.url)) as fetcher:
        batch = fetcher.fetch(make_batch([150.0]))
        assert fetcher.stats().retries == failures
    assert (batch["status"][0], batch["error"][0], batch["attempts"][0]) == ("ok", None, failures + 1)


@pytest.mark.parametrize("behaviour", ["ok", "png", "chunked", "gzip"])
def test_good_answers(service: FaultyService, behaviour: str) -> None:
    service.behaviour = lambda ask: behaviour
    with Fetcher(quick_config(service.url)) as fetcher:
        batch = fetcher.fetch(make_batch([150.0]))
    body = batch["image_bytes"][0]
    assert batch["status"][0] == "ok"
    assert body.startswith(b"\x89PNG" if behaviour == "png" else b"\xff\xd8")
    assert batch["image_sha256"][0] == hashlib.sha256(body).hexdigest()


def test_fits_cutouts(service: FaultyService) -> None:
    service.behaviour = lambda ask: "fits" if ask.query["ra"] < "160" else "ok"
    with Fetcher(quick_config(service.url, format="fits")) as fetcher:
        batch = fetcher.fetch(make_batch([150.0, 170.0]))
    assert batch["status"].tolist() == ["ok", "corrupt"]
    assert "not a FITS image" in batch["error"][1]


@pytest.mark.parametrize("behaviour", ["hang", "hang-body", "drip"])
def test_a_slow_answer_is_given_up_in_time(service: FaultyService, behaviour: str) -> None:
    service.behaviour = lambda ask: behaviour
    started = time.monotonic()
    with Fetcher(quick_config(service.url, timeout_s=0.3, max_attempts=2)) as fetcher:
        batch = fetcher.fetch(make_batch([150.0]))
        assert fetcher.stats().answers == {"timeout": 2}
    assert time.monotonic() - started < 10
    assert (batch["status"][0], batch["attempts"][0]) == ("unreachable", 2)
    assert "timeout" in batch["error"][0]


def test_nobody_listens() -> None:
    with FaultyService() as service:
        url = service.url
    with Fetcher(quick_config(url)) as fetcher:
        batch = fetcher.fetch(make_batch([150.0]))
    assert (batch["status"][0], batch["attempts"][0]) == ("unreachable", 3)
    assert "ClientConnectorError" in batch["error"][0]


def test_a_redirect_within_the_service_is_followed(service: FaultyService) -> None:
    service.behaviour = lambda ask: "ok" if ask.path == "/moved" else "redirect:/moved?size=64"
    with Fetcher(quick_config(service.url)) as fetcher:
        batch = fetcher.fetch(make_batch([150.0]))
    assert (batch["status"][0], batch["attempts"][0], len(service.asks)) == ("ok", 1, 2)


@pytest.mark.parametrize("behaviour", ["429:1", "503:1", "429-date:1"])
def test_retry_after_holds_everybody(service: FaultyService, behaviour: str) -> None:
    refused_at: list[float] = []

    def refuse_the_first(ask: Ask) -> str:
        if not refused_at:
            refused_at.append(ask.time)
            return behaviour
        return "ok"

    service.behaviour = refuse_the_first
    with Fetcher(quick_config(service.url, max_in_flight=1, max_backoff_s=5)) as fetcher:
        batch = fetcher.fetch(make_batch([150.0, 151.0, 152.0]))
    assert batch["status"].tolist() == ["ok"] * 3
    # A date is written in whole seconds, so it may be up to one second early.
    least = 0.0 if behaviour == "429-date:1" else 1.0
    assert min(ask.time for ask in service.asks[1:]) - refused_at[0] >= least


def test_a_date_far_ahead_by_the_servers_own_clock_is_a_short_wait(service: FaultyService) -> None:
    service.behaviour = lambda ask: "429-date:1" if ask.attempt == 1 else "ok"
    started = time.monotonic()
    with Fetcher(quick_config(service.url, max_backoff_s=100)) as fetcher:
        assert fetcher.fetch(make_batch([150.0]))["status"][0] == "ok"
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("behaviour", ["429:-5", "429:soon", "429:9999999999999"])
def test_nonsense_in_retry_after_is_survived(service: FaultyService, behaviour: str) -> None:
    service.behaviour = lambda ask: behaviour if ask.attempt == 1 else "ok"
    started = time.monotonic()
    with Fetcher(quick_config(service.url, max_backoff_s=0.2)) as fetcher:
        assert fetcher.fetch(make_batch([150.0]))["status"][0] == "ok"
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("behaviour", ["429:100000", "503:601"])
def test_a_row_that_is_sent_away_for_too_long_is_not_asked_for_again(service: FaultyService, behaviour: str) -> None:
    service.behaviour = lambda ask: behaviour
    with Fetcher(quick_config(service.url)) as fetcher:
        batch = fetcher.fetch(make_batch([150.0]))
    assert (batch["status"][0], batch["attempts"][0]) == ("throttled", 1)
    assert batch["error"][0].endswith(f"Retry-After {behaviour[4:]} s")


def test_retry_after_is_obeyed_beyond_the_longest_backoff(service: FaultyService) -> None:
    service.behaviour = lambda ask: "429:2" if ask.attempt == 1 else "ok"
    with Fetcher(quick_config(service.url, max_backoff_s=0.2)) as fetcher:
        assert fetcher.fetch(make_batch([150.0]))["status"][0] == "ok"
    assert service.asks[1].time - service.asks[0].time >= 2


def test_the_service_learns_who_asks(service: FaultyService) -> None:
    with Fetcher(quick_config(service.url, contact="someone@example.org")) as fetcher:
        fetcher.fetch(make_batch([150.0]))
    headers = service.asks[0].headers
    assert headers["user-agent"].startswith("galaxray/")
    assert headers["user-agent"].endswith("(+https://github.com/galaxray/galaxray; someone@example.org)")
    assert headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("contact", ["a\r\nX: y", "jörg@example.org", "a (b)"])
def test_a_contact_that_no_header_can_hold(contact: str) -> None:
    with pytest.raises(ConfigError, match="contact"):
        user_agent(contact)


@pytest.mark.parametrize(
    ("location", "leads_to"),
    [
        ("/b?c=1", "http://h/b?c=1"),
        ("b", "http://h/b"),
        ("http://h:80/b", "http://h:80/b"),
        ("https://h/b", "https://h/b"),  # an upgrade
        ("https://h:8443/b", None),
        ("http://h:8080/b", None),
        ("http://www.h/b", None),
        ("http://h.evil.org/b", None),
        ("http://h@evil.org/b", None),
        ("//evil.org/b", None),
        ("", "http://h/a"),
    ],
)
def test_where_redirects_may_lead(location: str, leads_to: str | None) -> None:
    if leads_to is not None:
        assert follow(URL("http://h/a"), location) == URL(leads_to)
        return
    with pytest.raises(TryError, match="another host"):
        follow(URL("http://h/a"), location)


def test_no_redirect_takes_the_encryption_away() -> None:
    with pytest.raises(TryError, match="another host"):
        follow(URL("https://h/a"), "http://h/a")


def test_an_error_page_does_not_cost_the_connection(service: FaultyService) -> None:
    service.behaviour = lambda ask: "code:404" if float(ask.query["ra"]) < 155 else "ok"
    with Fetcher(quick_config(service.url, max_in_flight=1)) as fetcher:
        fetcher.fetch(make_batch([150.0, 151.0, 160.0]))
    assert service.connections == 1


def test_the_environments_proxy_is_used(service: FaultyService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", service.url)
    monkeypatch.setenv("no_proxy", "")
    with Fetcher(quick_config("http://survey.invalid")) as fetcher:
        assert fetcher.fetch(make_batch([150.0]))["status"][0] == "ok"
    assert service.asks[0].target.startswith("http://survey.invalid/viewer/jpeg-cutout?")


def test_threads_share_the_limits(service: FaultyService) -> None:
    service.behaviour = lambda ask: "slow:0.1"
    with Fetcher(quick_config(service.url, max_in_flight=4)) as fetcher:
        threads = [
            threading.Thread(target=fetcher.fetch, args=(make_batch([float(start + i) for i in range(8)]),))
            for start in (0, 10, 20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = fetcher.stats()
    assert service.peak_in_flight == 4
    assert (stats.requests, stats.answers) == (24, {"200": 24})
    assert stats.bytes > 24 * 1000
    assert stats.limiter_wait_s > 0.1


def two_fetchers_at_once(config: CutoutConfig, rows: int) -> list[int]:
    """Fetch with two fetchers under one governor; requests of each."""
    governor = Governor(config.requests_per_s, config.max_in_flight)
    lock = threading.Lock()

    def link(report: Report) -> Grant:
        with lock:  # each fetcher has an event loop of its own
            return governor.sync(time.monotonic(), report)

    def fetch(first: int) -> int:
        with Fetcher(config, limiter=GovernedLimiter(link)) as fetcher:
            found = fetcher.fetch(make_batch([float(first + ra) for ra in range(rows)]))
            assert set(found["status"]) == {"ok"}
            return fetcher.stats().requests

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(fetch, (0, 100)))


def test_requests_in_flight_are_shared(service: FaultyService) -> None:
    service.behaviour = lambda ask: "slow:0.1"
    assert two_fetchers_at_once(quick_config(service.url, max_in_flight=5), 25) == [25, 25]
    assert service.peak_in_flight <= 5


def test_the_rate_is_kept_and_shared(service: FaultyService) -> None:
    config = quick_config(service.url, requests_per_s=200)
    assert two_fetchers_at_once(config, 20) == [20, 20]
    times = [ask.time for ask in service.asks]
    assert max(times) - min(times) > 1.2  # 10/s at the beginning, doubled every second: 40 requests take 1.9 s
    assert sum(time < min(times) + 1 for time in times) <= 10 + 10
