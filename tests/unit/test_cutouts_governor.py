"""One governor, several clients, on virtual time: what holds for all of them together, whatever happens."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rate_limits import Service, fixed_window, sliding_window, token_bucket
from virtual_clock import run_virtually

from galaxray.cutouts import GovernedLimiter, Governor, Grant, Report, Verdict
from galaxray.cutouts.grants import LEASE_S


@dataclass
class Traffic:
    """What a service sees of several fetchers under one governor."""

    sent: list[tuple[float, int]] = field(default_factory=list)
    """Time and fetcher of each request."""
    refused: int = 0
    peak_in_flight: int = 0

    @property
    def answered(self) -> int:
        return len(self.sent) - self.refused

    @property
    def refused_share(self) -> float:
        return self.refused / len(self.sent)

    def most_in(self, seconds: float) -> int:
        times = sorted(time for time, _ in self.sent)
        return max(sum(start <= time < start + seconds for time in times) for start in times)


def far_link(governor: Governor, delay_s: float = 0.005) -> Callable[[Report], Awaitable[Grant]]:
    """The way to a governor in another process."""

    async def ask(report: Report) -> Grant:
        await asyncio.sleep(random.uniform(0.5, 1.5) * delay_s)
        grant = governor.sync(asyncio.get_running_loop().time(), report)
        await asyncio.sleep(random.uniform(0.5, 1.5) * delay_s)
        return grant

    return ask


async def ask_for(
    seconds: float, governor: Governor, service: Service, *, fetchers: int = 3, rows: int = 60, takes_s: float = 0.1
) -> Traffic:
    """Let fetchers with many rows each ask a service."""
    clock, traffic, in_flight = asyncio.get_running_loop().time, Traffic(), 0

    async def one_row(limiter: GovernedLimiter, fetcher: int) -> None:
        nonlocal in_flight
        while True:
            sent_under = await limiter.acquire()
            traffic.sent.append((clock(), fetcher))
            in_flight += 1
            traffic.peak_in_flight = max(traffic.peak_in_flight, in_flight)
            await asyncio.sleep(random.uniform(0.2, 0.8) * takes_s)
            retry_after_s = service(clock())
            await asyncio.sleep(random.uniform(0.2, 0.8) * takes_s)
            in_flight -= 1
            traffic.refused += retry_after_s is not None
            verdict = Verdict.ANSWERED if retry_after_s is None else Verdict.REFUSED
            limiter.release(verdict, retry_after_s, sent_under)

    limiters = [GovernedLimiter(far_link(governor)) for _ in range(fetchers)]
    tasks = [asyncio.create_task(one_row(limiter, n)) for n, limiter in enumerate(limiters) for _ in range(rows)]
    await asyncio.sleep(seconds - clock())
    for task in tasks:
        task.cancel()
    return traffic


@pytest.fixture(autouse=True)
def _chance_repeats_itself() -> None:
    random.seed(0)


BEARS = 20.0


@pytest.mark.parametrize("limit", [1.2 * BEARS, 3 * BEARS])
@pytest.mark.parametrize(
    ("service", "least"),
    [
        pytest.param(lambda: token_bucket(BEARS, BEARS), 0.95, id="token bucket"),
        pytest.param(lambda: token_bucket(BEARS, 5), 0.9, id="small token bucket"),
        pytest.param(lambda: fixed_window(BEARS, 1), 0.9, id="fixed window"),
        # These forgive nothing that comes a little early: the jitter of the way there costs a tenth.
        pytest.param(lambda: sliding_window(BEARS, 1), 0.85, id="sliding window"),
        pytest.param(lambda: sliding_window(BEARS, 10), 0.85, id="long sliding window"),
    ],
)
def test_what_a_service_bears_is_found_and_seldom_exceeded(
    service: Callable[[], Service], least: float, limit: float
) -> None:
    traffic = run_virtually(ask_for(200, Governor(limit, 32), service()))
    assert traffic.answered >= least * BEARS * 200
    assert traffic.refused_share < 0.01
    assert traffic.peak_in_flight <= 32


def test_the_users_limit_is_kept_and_used() -> None:
    traffic = run_virtually(ask_for(100, Governor(BEARS / 2, 32), token_bucket(BEARS, 5)))
    assert traffic.refused == 0
    assert 0.97 * BEARS / 2 * 100 <= traffic.answered <= BEARS / 2 * 100 + 1
    assert traffic.most_in(1) <= BEARS / 2 + 1
    of_each = Counter(fetcher for _, fetcher in traffic.sent)
    assert max(of_each.values()) - min(of_each.values()) <= 10


def test_without_a_limit_a_rate_comes_into_being_with_the_first_refusals() -> None:
    governor = Governor(None, 8)
    traffic = run_virtually(ask_for(200, governor, token_bucket(BEARS, BEARS)))
    assert traffic.answered >= 0.9 * BEARS * 200
    assert traffic.refused_share < 0.02
    assert governor.snapshot(200).requests_per_s == pytest.approx(BEARS, rel=0.2)


def test_refusals_that_have_nothing_to_do_with_the_rate_do_not_bring_it_down_for_ever() -> None:
    traffic = run_virtually(ask_for(400, Governor(10, 16), lambda now: 0.5 if random.random() < 0.02 else None))
    assert traffic.answered > 0.5 * 10 * 400


def test_a_service_that_bears_less_than_before_is_asked_less() -> None:
    before, after = token_bucket(50, 50), token_bucket(5, 5)
    governor = Governor(40, 16)
    traffic = run_virtually(ask_for(300, governor, lambda now: (before if now < 100 else after)(now)))
    assert governor.snapshot(300).requests_per_s == pytest.approx(5, rel=0.25)
    assert traffic.refused < 0.02 * len(traffic.sent)


def test_a_service_is_asked_gently_at_first() -> None:
    traffic = run_virtually(ask_for(6, Governor(1000, 1000), lambda now: None))
    times = [time for time, _ in traffic.sent]
    in_second = [sum(second <= time < second + 1 for time in times) for second in range(6)]
    assert in_second[0] <= 13
    assert all(later < 1.7 * earlier for earlier, later in pairwise(in_second))


def test_nobody_starves_at_one_request_per_second() -> None:
    traffic = run_virtually(ask_for(90, Governor(1, 16), lambda now: None))
    of_each = Counter(fetcher for _, fetcher in traffic.sent)
    assert sorted(of_each) == [0, 1, 2]
    assert min(of_each.values()) >= 28
    assert min(later - earlier for (earlier, _), (later, _) in pairwise(traffic.sent)) > 0.9


def test_nobody_starves_where_there_are_fewer_slots_than_fetchers() -> None:
    traffic = run_virtually(ask_for(60, Governor(None, 2), lambda now: None, fetchers=5, takes_s=0.5))
    assert min(Counter(fetcher for _, fetcher in traffic.sent).values()) > 10
    assert traffic.peak_in_flight <= 2


def test_who_wants_little_does_not_hold_up_who_wants_much() -> None:
    async def unequal() -> tuple[int, int]:
        governor, done = Governor(10, 16), Counter[str]()

        async def row(limiter: GovernedLimiter, name: str, rest_s: float) -> None:
            while True:
                await limiter.acquire()
                done[name] += 1
                limiter.release(Verdict.ANSWERED)
                await asyncio.sleep(rest_s)

        many, few = GovernedLimiter(far_link(governor)), GovernedLimiter(far_link(governor))
        tasks = [asyncio.create_task(row(many, "many", 0)) for _ in range(50)]
        tasks.append(asyncio.create_task(row(few, "few", 1)))
        await asyncio.sleep(60)
        for task in tasks:
            task.cancel()
        return done["many"], done["few"]

    many, few = run_virtually(unequal())
    assert few >= 40  # one a second, and little wait for each
    assert many + few >= 580


def test_the_slots_of_a_dead_fetcher_come_back() -> None:
    async def die() -> float:
        governor = Governor(None, 4)
        grant = governor.sync(0.0, Report(client="dead", held=0, waiting=9))
        governor.sync(0.1, Report(client="dead", held=grant.in_flight, waiting=5))
        alive = GovernedLimiter(far_link(governor))
        for _ in range(4):
            await alive.acquire()
        return asyncio.get_running_loop().time()

    assert LEASE_S < run_virtually(die()) < 10


def test_a_refusal_of_one_pauses_and_slows_all() -> None:
    governor = Governor(10, 16)
    for client in ("a", "b"):
        governor.sync(1.0, Report(client=client, held=0, waiting=50))
    told = governor.sync(1.1, Report(client="a", held=0, waiting=50, refused=1, refused_version=1, retry_after_s=30))
    heard = governor.sync(1.2, Report(client="b", held=1, waiting=50, version=1))
    assert (told.pause_s, heard.pause_s) == pytest.approx((30.0, 29.9))
    assert told.turns == heard.turns == ()
    assert told.version == heard.version == 2
    assert heard.rate == pytest.approx(7.0)
    # What was sent before that was known changes nothing, but is obeyed.
    late = governor.sync(40.0, Report(client="b", held=0, waiting=50, refused=1, refused_version=1, retry_after_s=5))
    assert (late.version, late.pause_s) == (2, 5.0)
    assert late.rate is not None
    assert late.rate > 7.0


def test_while_the_governor_is_lost_nothing_is_sent_and_its_successor_goes_on_where_it_was() -> None:
    async def lose() -> tuple[list[float], Governor]:
        clock, sent = asyncio.get_running_loop().time, []
        governors = [Governor(20, 4)]

        async def link(report: Report) -> Grant:
            await asyncio.sleep(0.002)
            if 20 <= clock() < 30:
                raise ConnectionError("no such actor")
            return governors[-1].sync(clock(), report)

        async def row(limiter: GovernedLimiter) -> None:
            while True:
                sent_under = await limiter.acquire()
                sent.append(clock())
                await asyncio.sleep(0.1)
                is_refused = 9.0 < clock() < 9.2
                limiter.release(Verdict.REFUSED if is_refused else Verdict.ANSWERED, None, sent_under)

        limiters = [GovernedLimiter(link) for _ in range(3)]
        tasks = [asyncio.create_task(row(limiter)) for limiter in limiters for _ in range(20)]
        await asyncio.sleep(25)
        governors.append(Governor(20, 4, is_successor=True))
        await asyncio.sleep(25)
        for task in tasks:
            task.cancel()
        return sent, governors[-1]

    sent, successor = run_virtually(lose())
    quiet = [time for time in sent if 20.5 < time < 30 + LEASE_S]
    assert quiet == []
    after = [time for time in sent if time >= 30 + LEASE_S]
    assert len(after) > 150
    most = max(sum(start <= time < start + 1 for time in after) for start in after)
    assert most <= 20 + 3  # the limit, and what each may send late
    first = successor.sync(50.0, Report(client="new", held=0, waiting=0))
    assert first.version >= 2  # it knows of the refusal


class Cluster:
    """Clients that do as they are told, some of which die."""

    def __init__(self, limit: float | None, max_in_flight: int) -> None:
        self.governor = Governor(limit, max_in_flight)
        self.limit, self.max_in_flight = limit, max_in_flight
        self.now = 0.0
        self.held: dict[str, int] = {}
        self.allowed: dict[str, int] = {}
        self.heard: dict[str, float] = {}
        self.turns: list[float] = []

    def report(self, name: str, *, ended: int, waiting: int, refused: int, retry_after_s: float | None) -> None:
        # A grant that has run out is no longer used.
        self.allowed = {n: a if self.now - self.heard[n] < LEASE_S else self.held[n] for n, a in self.allowed.items()}
        held = self.held.get(name, 0)
        self.held[name] = held = max(0, max(held, self.allowed.get(name, 0)) - ended)
        grant = self.governor.sync(
            self.now,
            Report(
                client=name,
                held=held,
                waiting=waiting,
                answered=ended,
                refused=refused,
                retry_after_s=retry_after_s if refused else None,
            ),
        )
        self.allowed[name], self.heard[name] = grant.in_flight, self.now
        if grant.turns is not None:
            assert all(turn >= grant.pause_s - 1e-9 for turn in grant.turns)
            self.turns += [self.now + turn for turn in grant.turns]
        if retry_after_s is not None and refused:
            assert grant.pause_s >= min(retry_after_s, 600) - 1e-9
        assert grant.rate is None or self.limit is None or grant.rate <= self.limit
        assert grant.next_report_s < LEASE_S / 2

    def check(self) -> None:
        alive = [name for name in self.held if self.now - self.heard[name] <= 6.0]
        assert sum(max(self.held[name], self.allowed[name]) for name in alive) <= self.max_in_flight
        if self.limit is not None:
            in_order = sorted(self.turns)
            assert all(later - earlier >= 1 / self.limit - 1e-6 for earlier, later in pairwise(in_order))


steps = st.lists(
    st.tuples(
        st.sampled_from("abcde"),
        st.floats(0, 1) | st.just(0.1) | st.floats(5, 20),  # seconds since the step before: some are taken for dead
        st.integers(0, 5),
        st.integers(0, 40),
        st.sampled_from([0, 0, 0, 1, 3]),
        st.none() | st.floats(0, 30),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=200)
@given(limit=st.none() | st.floats(0.2, 500), max_in_flight=st.integers(1, 20), steps=steps)
def test_the_sums_hold_whatever_happens(limit: float | None, max_in_flight: int, steps: list[tuple]) -> None:
    cluster = Cluster(limit, max_in_flight)
    for name, passed_s, ended, waiting, refused, retry_after_s in steps:
        cluster.now += passed_s
        for dead in [n for n, heard in cluster.heard.items() if cluster.now - heard > 6.0]:
            del cluster.held[dead], cluster.allowed[dead], cluster.heard[dead]
        cluster.report(name, ended=ended, waiting=waiting, refused=refused, retry_after_s=retry_after_s)
        cluster.check()
