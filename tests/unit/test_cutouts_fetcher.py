"""The contract of the stage: every row comes out, in order, with what was looked at."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cutout_batches import make_batch, quick_config
from faulty_service import FaultyService

from galaxray.batches import Batch, pack, text_array, unpack
from galaxray.cutouts import Fetcher, Verdict
from galaxray.errors import ConfigError, GalaxrayError


@pytest.fixture
def service() -> Iterator[FaultyService]:
    with FaultyService() as service:
        yield service


def fetch(service: FaultyService, batch: Batch, **settings: Any) -> Batch:
    with Fetcher(quick_config(service.url, **settings)) as fetcher:
        return fetcher.fetch(batch)


def test_every_row_comes_out_in_order_with_its_own_image(service: FaultyService) -> None:
    service.behaviour = lambda ask: f"slow:{0.03 - float(ask.query['ra']) / 1000}"  # the first come last
    batch = fetch(service, make_batch([float(ra) for ra in range(20)]))
    assert batch["row_index"].tolist() == list(range(20))
    for ra, url, body in zip(range(20), batch["image_url"], batch["image_bytes"], strict=True):
        assert f"ra={ra}.00000000&" in url
        assert url.removeprefix(service.url).encode() in body


def test_rows_that_failed_before_pass_through_untouched(service: FaultyService) -> None:
    batch = make_batch([1.0, np.nan, 3.0])
    batch["status"] = text_array(["ok", "bad_coordinates", "ok"])
    batch["error"] = text_array([None, "ra is NaN", None])
    found = fetch(service, batch)
    assert found["status"].tolist() == ["ok", "bad_coordinates", "ok"]
    assert found["error"].tolist() == [None, "ra is NaN", None]
    assert found["attempts"].tolist() == [1, 0, 1]
    assert (found["image_url"][1], found["image_bytes"][1], found["image_sha256"][1]) == (None, None, None)
    assert len(service.asks) == 2


def test_a_position_that_slipped_through_is_never_asked_for(service: FaultyService) -> None:
    found = fetch(service, make_batch([np.nan, 5.0]))
    assert found["status"].tolist() == ["bad_coordinates", "ok"]
    assert found["attempts"].tolist() == [0, 1]


def test_the_batch_is_not_changed_and_its_columns_are_kept(service: FaultyService) -> None:
    batch = make_batch([1.0], extra=np.array([7]))
    for array in batch.values():
        array.setflags(write=False)
    found = fetch(service, batch)
    assert found["extra"].tolist() == [7]
    assert "image_bytes" not in batch
    assert found.keys() - batch.keys() == {
        "image_bytes", "image_url", "image_sha256", "attempts", "pixel_scale_arcsec",
    }  # fmt: skip
    assert (found["attempts"].dtype, found["pixel_scale_arcsec"].dtype) == (np.int16, np.float64)
    assert unpack(pack(found))[0]["image_bytes"][0] == found["image_bytes"][0]


def test_an_empty_batch(service: FaultyService) -> None:
    found = fetch(service, make_batch([]))
    assert found["image_bytes"].shape == (0,)
    assert found["attempts"].dtype == np.int16


@pytest.mark.parametrize(
    ("settings", "columns", "expected"),
    [
        ({"pixel_scale_arcsec": 0.262}, {}, 0.262),
        ({"fov_arcsec": 32.0}, {}, 0.5),
        ({"fov_arcsec": 32.0}, {"pixel_scale_arcsec": 0.1}, 0.1),
        ({}, {"size_arcsec": 64.0}, 1.0),
        ({}, {"size_arcsec": 64.0, "pixel_scale_arcsec": 0.2}, 0.2),
        ({}, {"size_arcsec": np.nan, "pixel_scale_arcsec": np.nan}, 0.262),
        ({}, {"size_arcsec": -99.0, "pixel_scale_arcsec": -9999.0}, 0.262),
        ({}, {"size_arcsec": 0.0, "pixel_scale_arcsec": np.inf}, 0.262),
    ],
)
def test_the_pixel_scale_of_a_row(
    service: FaultyService, settings: dict[str, float], columns: dict[str, float], expected: float
) -> None:
    batch = make_batch([1.0], **{name: np.array([value]) for name, value in columns.items()})
    found = fetch(service, batch, **settings)
    assert found["pixel_scale_arcsec"].tolist() == [expected]
    assert float(service.asks[0].query["pixscale"]) == pytest.approx(expected)


def test_a_column_that_the_source_needs() -> None:
    batch = make_batch([1.0])
    del batch["dec_deg"]
    with Fetcher(quick_config("http://127.0.0.1:9")) as fetcher, pytest.raises(ConfigError, match="dec_deg"):
        fetcher.fetch(batch)


def test_a_dead_service_costs_little_after_a_while() -> None:
    with FaultyService() as service:
        url = service.url
    config = quick_config(url, max_attempts=2, max_backoff_s=0.05, max_in_flight=2)  # patience: 0.1 s
    with Fetcher(config) as fetcher:
        found = fetcher.fetch(make_batch([float(ra) for ra in range(1000)]))
        stats = fetcher.stats()
    assert set(found["status"]) == {"unreachable"}
    assert stats.requests < 1500
    assert stats.outage is not None
    assert any(error.startswith("not asked: the service has not answered") for error in found["error"])


def test_a_service_that_hangs_costs_patience_and_not_the_sum_of_all_waits(service: FaultyService) -> None:
    service.behaviour = lambda ask: "hang"
    config = quick_config(service.url, timeout_s=0.1, max_attempts=4, max_backoff_s=0.1, max_in_flight=4)
    started = time.monotonic()
    with Fetcher(config) as fetcher:
        found = fetcher.fetch(make_batch([float(ra) for ra in range(400)]))
    assert set(found["status"]) == {"unreachable"}
    assert time.monotonic() - started < 20  # 400 rows x 4 tries x 0.1 s / 4 in flight would be 40 s


def test_a_limiter_of_ones_own_is_told_everything(service: FaultyService) -> None:
    class Recorder:
        outage = None

        def __init__(self) -> None:
            self.open = 0
            self.verdicts: list[tuple[Verdict, float | None]] = []

        async def acquire(self, number: int = 0) -> int:
            self.open += 1
            return 7

        def release(self, verdict: Verdict, retry_after_s: float | None = None, sent_under: int | None = None) -> None:
            assert sent_under == 7
            self.open -= 1
            self.verdicts.append((verdict, retry_after_s))

    answers = ["429:0", "code:500", "code:502", "reset", "ok"]
    service.behaviour = lambda ask: answers[ask.attempt - 1]
    limiter = Recorder()
    with Fetcher(quick_config(service.url, max_attempts=5), limiter=limiter) as fetcher:
        assert fetcher.fetch(make_batch([1.0]))["attempts"].tolist() == [5]
    assert limiter.open == 0
    assert limiter.verdicts == [
        (Verdict.REFUSED, 0.0),
        (Verdict.ANSWERED, None),
        (Verdict.FAILED, None),
        (Verdict.FAILED, None),
        (Verdict.ANSWERED, None),
    ]


def test_a_bug_costs_a_row_and_is_logged(service: FaultyService, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        outage = None

        async def acquire(self, number: int = 0) -> int:
            raise ZeroDivisionError("a bug")

        def release(
            self, verdict: Verdict, retry_after_s: float | None = None, sent_under: int | None = None
        ) -> None: ...

    with Fetcher(quick_config(service.url), limiter=Broken()) as fetcher:
        found = fetcher.fetch(make_batch([1.0]))
    assert found["status"][0] == "unreachable"
    assert found["error"][0] == "internal error: ZeroDivisionError: a bug"
    assert "cannot fetch" in caplog.text


def test_closing_ends_what_is_in_flight_and_leaves_no_thread(service: FaultyService) -> None:
    service.behaviour = lambda ask: "hang"
    fetcher = Fetcher(quick_config(service.url, timeout_s=60))
    failures: list[BaseException] = []

    def try_to_fetch() -> None:
        try:
            fetcher.fetch(make_batch([1.0]))
        except GalaxrayError as error:
            failures.append(error)

    thread = threading.Thread(target=try_to_fetch)
    thread.start()
    while not service.asks:
        time.sleep(0.01)
    fetcher.close()
    fetcher.close()  # twice is once
    thread.join(timeout=5)
    assert [str(failure) for failure in failures] == ["this fetcher was closed while it fetched"]
    with pytest.raises(GalaxrayError, match="closed"):
        fetcher.fetch(make_batch([1.0]))
    assert not any(thread.name.startswith("galaxray") for thread in threading.enumerate())


def test_a_fetcher_that_cannot_be_made_leaves_no_thread() -> None:
    with pytest.raises(ConfigError):
        Fetcher(quick_config("http://127.0.0.1:9", contact="jörg"))
    assert not any(thread.name.startswith("galaxray") for thread in threading.enumerate())
