"""A slow and faulty service, on virtual time: units come to their end one after the other, in time."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from cutout_batches import quick_config
from virtual_clock import run_virtually

from galaxray.config import CutoutConfig
from galaxray.cutouts import FetchStats, local_limiter, longest_fetch_s, make_governor
from galaxray.cutouts.http import HttpReader

UNITS, ROWS = 4, 300


class SlowService:
    """In place of aiohttp's session: so many seconds per answer, and the first answers of each row are errors."""

    def __init__(self, takes_s: float, failures: int) -> None:
        self.takes_s = takes_s
        self.failures = failures
        self.asked: dict[str, int] = {}

    def get(self, target: Any, **options: Any) -> SlowService:
        self.target = str(target)
        return self

    async def __aenter__(self) -> Any:
        self.asked[self.target] = attempt = self.asked.get(self.target, 0) + 1
        await asyncio.sleep(self.takes_s)
        code = 200 if attempt > self.failures else 500

        async def read() -> bytes:
            return b"an image"

        return SimpleNamespace(status=code, reason="", headers={}, content_length=8, read=read)

    async def __aexit__(self, *error: object) -> None: ...

    async def close(self) -> None: ...


async def end_of_units(config: CutoutConfig, service: SlowService) -> list[float]:
    limiter = local_limiter(make_governor(config))
    reader = HttpReader(config, "http://slow", limiter=limiter, check=lambda body: None, stats=FetchStats())
    await reader.close()
    reader._session = service

    async def fetch_unit(unit: int) -> float:
        answers = await asyncio.gather(*(reader.read(f"http://slow/{unit}/{row}") for row in range(ROWS)))
        assert {answer.status.value for answer in answers} <= {"ok", "unreachable"}
        return asyncio.get_running_loop().time()

    return await asyncio.gather(*(fetch_unit(unit) for unit in range(UNITS)))


def test_the_first_unit_comes_first_to_its_end() -> None:
    config = quick_config(requests_per_s=10, max_in_flight=16, timeout_s=30, max_attempts=5, max_backoff_s=60)
    # 2 requests per second, 2 for each row: 300 s for a unit
    ended = run_virtually(end_of_units(config, SlowService(takes_s=8, failures=1)))
    assert ended == pytest.approx([300, 600, 900, 1200], rel=0.1)


def test_rows_that_wait_for_another_try_hold_nobody_up() -> None:
    config = quick_config(requests_per_s=None, max_in_flight=4, max_attempts=4, backoff_s=60, max_backoff_s=60)
    ended = run_virtually(end_of_units(config, SlowService(takes_s=0.1, failures=3)))
    assert ended[-1] < UNITS * ROWS * 4 * 0.1 / 4 + 4 * 60


def test_a_unit_takes_no_longer_than_foreseen() -> None:
    config = quick_config(requests_per_s=10, max_in_flight=16, timeout_s=30, max_attempts=5, max_backoff_s=60)
    ended = run_virtually(end_of_units(config, SlowService(takes_s=29.9, failures=5)))
    between = [ended[0], *(later - earlier for earlier, later in pairwise(ended))]
    assert 600 < max(between) < longest_fetch_s(config, ROWS)


def test_what_is_foreseen_grows_with_the_tries_and_not_for_files() -> None:
    usual, patient = (longest_fetch_s(CutoutConfig(max_attempts=tries), ROWS) for tries in (5, 12))
    assert patient > usual > 12 * 60 / 5
    assert longest_fetch_s(CutoutConfig(source="files"), ROWS) == 0
    assert longest_fetch_s(CutoutConfig(requests_per_s=0.5, max_attempts=1), ROWS) > ROWS / 0.5


def test_fetchers_that_share_the_limits_each_take_longer() -> None:
    alone, together = (longest_fetch_s(CutoutConfig(), 1000, fetchers) for fetchers in (1, 3))
    assert 2 * alone < together < 3 * alone
