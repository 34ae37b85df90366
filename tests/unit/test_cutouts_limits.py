"""The limiter, on virtual time: hours pass in milliseconds, and every figure is exact."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise

import pytest
from virtual_clock import VirtualClockLoop, run_virtually

from galaxray.cutouts import GovernedLimiter, Governor, ServiceDownError, Verdict, local_limiter
from galaxray.schema import Status


def limiter_of(requests_per_s: float | None, max_in_flight: int, **settings: float) -> GovernedLimiter:
    return local_limiter(Governor(requests_per_s, max_in_flight, **settings))


async def send(
    limiter: GovernedLimiter, count: int, *, takes_s: float = 0.0, verdict: Callable[[float], Verdict] | None = None
) -> list[float]:
    """Send ``count`` requests at once; return when each was let through, in order."""
    clock = asyncio.get_running_loop().time
    sent: list[float] = []

    async def one() -> None:
        await limiter.acquire()
        now = clock()
        sent.append(now)
        await asyncio.sleep(takes_s)
        limiter.release(verdict(now) if verdict else Verdict.ANSWERED)

    await asyncio.gather(*(one() for _ in range(count)))
    return sent


def test_requests_are_spaced_evenly() -> None:
    sent = run_virtually(send(limiter_of(10, 100), 50))
    assert sent == pytest.approx([index / 10 for index in range(50)])


def test_there_is_no_burst_after_a_quiet_time() -> None:
    async def rest_then_send() -> list[float]:
        limiter = limiter_of(10, 100)
        await send(limiter, 3)
        await asyncio.sleep(1000)
        return await send(limiter, 11)

    sent = run_virtually(rest_then_send())
    assert sent[-1] - sent[0] == pytest.approx(1.0)


def test_a_stalled_event_loop_does_not_make_up_for_it_in_a_burst() -> None:
    async def stall() -> list[float]:
        queue = asyncio.create_task(send(limiter_of(10, 100), 40))
        await asyncio.sleep(0.55)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualClockLoop)
        loop.stall(1.02)
        return await queue

    sent = run_virtually(stall())
    assert len(sent) == 40
    assert min(later - earlier for earlier, later in pairwise(sent)) > 0.05
    assert sent[-1] == pytest.approx(1.57 + 3.3)  # six went before the stall, the others go on evenly after it


def test_no_more_are_in_flight_than_allowed() -> None:
    sent = run_virtually(send(limiter_of(None, 4), 12, takes_s=5))
    assert sent == pytest.approx([0] * 4 + [5] * 4 + [10] * 4)


def test_slow_answers_do_not_raise_the_rate_later() -> None:
    # 10 per second allowed, 4 in flight of 1 s each: the backlog of unused turns must not be made up for
    sent = run_virtually(send(limiter_of(10, 4), 40, takes_s=1))
    in_a_second = max(sum(start <= time < start + 1 - 1e-9 for time in sent) for start in sent)
    assert in_a_second <= 10


@pytest.mark.parametrize(
    ("retry_after_s", "resumes_at"), [(7.0, 7.0), (None, 0.5), (90.0, 90.0), (1e9, 600.0), (-3.0, 0.0)]
)
def test_a_refusal_pauses_everybody(retry_after_s: float | None, resumes_at: float) -> None:
    async def refuse_one() -> list[float]:
        limiter = limiter_of(None, 100, pause_s=0.5, max_pause_s=60)
        await limiter.acquire()
        limiter.release(Verdict.REFUSED, retry_after_s)
        return await send(limiter, 5)

    assert run_virtually(refuse_one()) == pytest.approx([resumes_at] * 5)


def test_those_who_already_queue_wait_too() -> None:
    async def refuse_while_others_queue() -> list[float]:
        limiter = limiter_of(10, 100)
        await limiter.acquire()
        queue = asyncio.create_task(send(limiter, 20))
        await asyncio.sleep(0.55)
        limiter.release(Verdict.REFUSED, 30.0)
        return await queue

    sent = run_virtually(refuse_while_others_queue())
    before, after = [time for time in sent if time <= 0.55], [time for time in sent if time > 0.55]
    assert len(before) == 5
    assert after[0] == pytest.approx(30.55)
    assert after[:5] == pytest.approx([30.55 + index / 7 for index in range(5)], rel=1e-3)  # and 0.7 as fast
    assert len(after) == 15
    assert min(later - earlier for earlier, later in pairwise(after)) >= 0.1


def test_pauses_without_retry_after_grow_and_start_again_after_an_answer() -> None:
    async def pauses() -> list[float]:
        clock = asyncio.get_running_loop().time
        limiter = limiter_of(None, 1, pause_s=1, max_pause_s=10, patience_s=1000)
        found = []
        for verdict in [Verdict.REFUSED] * 6 + [Verdict.ANSWERED, Verdict.REFUSED, Verdict.ANSWERED]:
            before = clock()
            await limiter.acquire()
            found.append(clock() - before)
            limiter.release(verdict)
        return found

    assert run_virtually(pauses()) == pytest.approx([0, 1, 2, 4, 8, 10, 10, 0, 1])


def test_what_was_in_flight_together_counts_as_one_refusal() -> None:
    async def refuse_sixteen_twice() -> list[float]:
        clock = asyncio.get_running_loop().time
        limiter = limiter_of(None, 16, pause_s=1, max_pause_s=1000, patience_s=10_000)
        resumed = []
        for _ in range(2):
            for _ in range(16):
                await limiter.acquire()
            for _ in range(16):  # the answers come over 0.8 s
                limiter.release(Verdict.REFUSED)
                await asyncio.sleep(0.05)
            await limiter.acquire()
            resumed.append(clock())
            limiter.release(Verdict.FAILED)
        return resumed

    # The first pause lasts from 0 to 1, the second, twice as long, from 1 to 3.
    assert run_virtually(refuse_sixteen_twice()) == pytest.approx([1.0, 3.0])


@pytest.mark.parametrize(
    ("verdict", "status"), [(Verdict.FAILED, Status.UNREACHABLE), (Verdict.REFUSED, Status.THROTTLED)]
)
def test_a_dead_service_is_given_up_probed_and_welcomed_back(verdict: Verdict, status: Status) -> None:
    async def outage() -> None:
        clock = asyncio.get_running_loop().time
        limiter = limiter_of(None, 4, pause_s=1, max_pause_s=60, patience_s=300)

        async def fail() -> None:
            await limiter.acquire()
            await asyncio.sleep(30)
            limiter.release(verdict)

        while limiter.outage is None:
            await fail()
        assert 300 <= clock() < 600  # not before its patience ends, and soon after
        assert "300 s" in limiter.outage
        with pytest.raises(ServiceDownError) as given_up:
            await limiter.acquire()
        assert given_up.value.status is status

        await asyncio.sleep(61)
        await fail()  # the probe
        with pytest.raises(ServiceDownError):
            await limiter.acquire()

        await asyncio.sleep(61)
        await limiter.acquire()
        limiter.release(Verdict.ANSWERED)
        assert limiter.outage is None
        assert len(await send(limiter, 10)) == 10

    run_virtually(outage())


def test_those_who_queue_when_the_service_is_given_up_do_not_wait_on() -> None:
    async def queue_in_an_outage() -> tuple[int, float]:
        limiter = limiter_of(None, 2, max_pause_s=50, patience_s=100)

        async def fail() -> bool:
            try:
                await limiter.acquire()
            except ServiceDownError:
                return True
            await asyncio.sleep(15)
            limiter.release(Verdict.FAILED)
            return False

        given_up = await asyncio.gather(*(fail() for _ in range(1000)))
        return sum(given_up), asyncio.get_running_loop().time()

    given_up, took_s = run_virtually(queue_in_an_outage())
    assert given_up > 970
    assert took_s < 200


def test_a_few_failures_far_apart_are_no_outage() -> None:
    async def fail_nine_times() -> str | None:
        limiter = limiter_of(None, 1, patience_s=100)
        for _ in range(9):
            await limiter.acquire()
            await asyncio.sleep(60)
            limiter.release(Verdict.FAILED)
        return limiter.outage

    assert run_virtually(fail_nine_times()) is None


def test_one_answer_ends_a_row_of_failures() -> None:
    async def mostly_fail() -> str | None:
        limiter = limiter_of(None, 1, patience_s=100)
        for index in range(200):
            await limiter.acquire()
            await asyncio.sleep(10)
            limiter.release(Verdict.ANSWERED if index % 8 == 0 else Verdict.FAILED)
        return limiter.outage

    assert run_virtually(mostly_fail()) is None


def test_a_cancelled_wait_gives_its_place_back() -> None:
    async def cancel() -> list[float]:
        limiter = limiter_of(1, 1)
        await limiter.acquire()
        limiter.release(Verdict.ANSWERED)
        waiting = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(0.5)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return await send(limiter, 1)

    assert run_virtually(cancel()) == pytest.approx([1.0])


def test_a_service_that_asks_for_quiet_is_not_probed_before_its_time() -> None:
    async def refuse_for_long() -> None:
        limiter = limiter_of(None, 100, max_pause_s=60, patience_s=0)
        for _ in range(10):
            await limiter.acquire()
        for _ in range(10):
            limiter.release(Verdict.REFUSED, 500.0)
        assert limiter.outage is not None
        await asyncio.sleep(499)
        with pytest.raises(ServiceDownError):
            await limiter.acquire()
        await asyncio.sleep(2)
        await limiter.acquire()

    run_virtually(refuse_for_long())


def test_who_comes_back_comes_before_those_who_have_not_begun() -> None:
    async def three_tries_each() -> list[int]:
        limiter, done = limiter_of(None, 2), []

        async def row(number: int) -> None:
            for _ in range(3):
                await limiter.acquire(number)
                await asyncio.sleep(1)
                limiter.release(Verdict.ANSWERED)
                await asyncio.sleep(0.5)
            done.append(number)

        await asyncio.gather(*(row(number) for number in range(20)))
        assert asyncio.get_running_loop().time() == pytest.approx(30, abs=3)  # and the waits of one are used by others
        return done

    done = run_virtually(three_tries_each())
    assert all(abs(place - number) <= 2 for place, number in enumerate(done))


def test_a_cancelled_wait_in_the_queue_leaves_room() -> None:
    async def cancel() -> None:
        limiter = limiter_of(None, 1)
        await limiter.acquire(0)
        waiting = [asyncio.create_task(limiter.acquire(number)) for number in (1, 2)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        limiter.release(Verdict.ANSWERED)
        await asyncio.wait_for(waiting[1], 1)
        waiting.append(asyncio.create_task(limiter.acquire(3)))
        await asyncio.sleep(0)
        limiter.release(Verdict.ANSWERED)  # calls it ...
        waiting[2].cancel()  # ... and it is cancelled before it comes
        await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.wait_for(limiter.acquire(4), 1)

    run_virtually(cancel())
