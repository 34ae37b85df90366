"""Fetchers on three nodes ask one service: together they keep what it bears, and what the user set."""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from faulty_service import Ask, FaultyService
from faulty_sky import write_catalog
from programs import end_of, read, start, wait_for
from rate_limits import Service, fixed_window, token_bucket
from ray_cluster import RayCluster, ray_cluster

pytestmark = pytest.mark.long


class LimitedService(FaultyService):
    """A service that refuses what it does not bear, with a Retry-After in whole seconds.

    Attributes
    ----------
    answered, refused : list of float
        When (``time.monotonic``).
    """

    def __init__(self, bears: Service, takes_s: float) -> None:
        self.answered: list[float] = []
        self.refused: list[float] = []
        self._bears, self._takes_s = bears, takes_s
        super().__init__(self._treat)

    def _treat(self, ask: Ask) -> str:
        wait_s = self._bears(ask.time)
        (self.answered if wait_s is None else self.refused).append(ask.time)
        return f"slow:{self._takes_s}" if wait_s is None else f"429:{math.ceil(wait_s)}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster({}) as cluster:
        cluster.add_node()
        yield cluster


@contextmanager
def fetching(
    cluster: RayCluster, service: FaultyService, folder: Path, rows: int, **limits: float
) -> Iterator[subprocess.Popen[str]]:
    """The program, which ends with the block."""
    flags = [flag for name, value in limits.items() for flag in (f"--cutouts.{name}", value)]
    process = start(
        *("--catalog", write_catalog(folder / "galaxies.csv", rows), "--output", folder / "run", "--stages", "fetch"),
        *("--cutouts.base_url", service.url, "--cutouts.size_pixels", 64, "--cutouts.max_attempts", 8),
        *("--compute.fetchers", 3, "--compute.rows_per_unit", 50, *flags),
        RAY_ADDRESS=cluster.address,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def fetchers_at(cluster: RayCluster, service: FaultyService) -> list[psutil.Process]:
    """Processes of the cluster that have a connection to a service."""
    found = []
    for process in cluster.actors("MapBatches(Fetching"):
        with suppress(psutil.Error):
            if any(link.raddr and link.raddr.port == service.port for link in process.net_connections()):
                found.append(process)
    return found


def most_in_a_second(times: list[float]) -> int:
    return max(sum(start <= time < start + 1 for time in times) for start in times)


@pytest.mark.timeout(480)
@pytest.mark.parametrize(
    ("bears", "rows"),
    [
        pytest.param(lambda: token_bucket(40, 20), 2600, id="token bucket"),
        # It forgives nothing that comes a little early: it takes longer to see that more is borne on the whole.
        pytest.param(lambda: fixed_window(40, 1), 8000, id="fixed window"),
    ],
)
def test_three_nodes_get_what_a_service_bears_and_are_seldom_refused(tmp_path, cluster, bears, rows):
    limits = {"requests_per_s": 60, "max_in_flight": 24}
    with (
        LimitedService(bears(), takes_s=0.05) as service,
        fetching(cluster, service, tmp_path, rows, **limits) as process,
    ):
        wait_for(lambda: len(fetchers_at(cluster, service)) == 3, process)
        # Their parents are the raylets of their nodes, which Ray chooses: it need not take all three.
        assert len({fetcher.ppid() for fetcher in fetchers_at(cluster, service)}) >= 2
        end_of(process, timeout_s=400)
    assert (read(tmp_path / "run")["status"] == "ok").all()
    assert len(service.answered) == rows
    share = rows / (max(service.answered) - min(service.answered)) / 40
    refused = len(service.refused) / (rows + len(service.refused))
    print(f"{rows} rows: {share:.3f} of what the service bears, {refused:.2%} refused")
    assert share >= 0.9
    assert refused < 0.01
    assert service.peak_in_flight <= 24
    assert most_in_a_second(sorted(service.answered + service.refused)) <= 60 * 1.1


@pytest.mark.timeout(300)
def test_the_users_limits_hold_for_all_and_the_share_of_a_killed_fetcher_comes_back(tmp_path, cluster):
    limits = {"requests_per_s": 20, "max_in_flight": 6}
    with (
        LimitedService(token_bucket(1000, 1000), takes_s=0.25) as service,
        fetching(cluster, service, tmp_path, 600, **limits) as process,
    ):
        wait_for(lambda: len(fetchers_at(cluster, service)) == 3 and len(service.answered) > 100, process)
        fetchers_at(cluster, service)[0].kill()
        killed = time.monotonic()
        end_of(process)
    assert (read(tmp_path / "run")["status"] == "ok").all()
    assert service.refused == []
    assert service.peak_in_flight <= 6
    assert most_in_a_second(service.answered) <= 20 + 3  # the limit, and what each fetcher may send late
    begin, end = killed + 8, max(service.answered)
    assert end - begin > 5
    rate = sum(time > begin for time in service.answered) / (end - begin)
    print(f"{rate:.1f} requests/s of 20 after a fetcher was killed")
    assert rate > 15
