"""Kill the driver, workers, nodes and writers of a run: the table is that of a run that nobody disturbed."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any
from unittest import mock

import pandas as pd
import pytest
import s3fs
from faulty_sky import FaultySky, write_catalog
from polling_reader import reader
from ray_cluster import NODE_CPUS, ROOT, ray_cluster
from slow_store import slow_store
from under_fire import KINDS, SLOW_DISK, UNIT_ROWS, RunUnderFire, Scene, annotate_under_fire, asked_again

from galaxray.config import STAGES, CutoutConfig, RunConfig, StageName
from pipelines.flight import max_units_in_flight
from pipelines.resources import Resources, allot

MAX_ATTEMPTS = 4
CLUSTER = Resources(num_cpus=2 * NODE_CPUS, num_gpus=0, num_nodes=2, node_cpus=NODE_CPUS)
FLAGS = [
    *("--compute.rows_per_unit", str(UNIT_ROWS), "--compute.stall_timeout_s", "150"),
    *("--cutouts.size_pixels", "64", "--cutouts.requests_per_s", "none", "--cutouts.timeout_s", "10"),
    *("--cutouts.max_attempts", str(MAX_ATTEMPTS), "--cutouts.backoff_s", "0.02", "--cutouts.max_backoff_s", "0.5"),
]


@dataclass(frozen=True)
class Tier:
    """How much is done, and what is killed meanwhile, in an order that the seed decides."""

    rows: int
    stages: tuple[StageName, ...]
    on_disk: tuple[str, ...]
    on_s3: tuple[str, ...]


SHORT = Tier(
    1500, ("fetch", "classify"), on_disk=("driver", "governor", "models", "node", "writer"), on_s3=("driver", "writer")
)
TWENTY = KINDS * 2 + ("driver", "driver", "node", "writer")
LONG = Tier(10_000, STAGES, on_disk=TWENTY, on_s3=TWENTY)


@contextmanager
def scene_of(tier: Tier, seed: int, scratch: Path) -> Iterator[Scene]:
    """A cluster, a store and a service with its catalogue."""
    (scratch / "sitecustomize.py").write_text(SLOW_DISK)
    with ExitStack() as stack:
        store = stack.enter_context(slow_store())
        environment = {
            "AWS_ENDPOINT_URL": store.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "PYTHONPATH": os.pathsep.join([str(scratch), str(ROOT)]),
            "CHAOS_SLOW_DISK": str(scratch / "slow-disk"),
        }
        stack.enter_context(mock.patch.dict(os.environ, environment))
        sky = stack.enter_context(FaultySky(tier.rows, seed))
        cluster = stack.enter_context(ray_cluster(environment))
        catalog = write_catalog(scratch / "galaxies.csv", tier.rows)
        flags = [*FLAGS, "--cutouts.base_url", sky.url, "--stages", ",".join(tier.stages)]
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("chaos")
        yield Scene(cluster=cluster, sky=sky, store=store, catalog=catalog, scratch=scratch, flags=flags)


@pytest.fixture(scope="module", params=[SHORT, pytest.param(LONG, marks=pytest.mark.long)], ids=["short", "long"])
def tier(request) -> Tier:
    return request.param


@pytest.fixture(scope="module")
def scene(tier, chaos_seed, tmp_path_factory) -> Iterator[Scene]:
    with scene_of(tier, chaos_seed, tmp_path_factory.mktemp("chaos")) as scene:
        yield scene


@pytest.fixture(scope="module")
def undisturbed(scene) -> tuple[pd.DataFrame, list]:
    """The table of a run that nobody disturbs, and its requests."""
    output = str(scene.scratch / "undisturbed")
    run = annotate_under_fire(scene, output, [], random.Random(0))
    assert run.starts == 1
    table = read(output)
    assert table["row_index"].tolist() == list(range(len(table))) == list(range(len(scene.sky.fates)))
    assert table["status"].tolist() == [scene.sky.expected_status(row) for row in table["row_index"]]
    predicted = table["smooth-or-featured-dr5_smooth_fraction"]
    assert (predicted.notna() == (table["status"] == "ok")).all()
    assert predicted.nunique() > 0.9 * predicted.count(), "no two galaxies are alike"
    return table, scene.sky.rows()


@pytest.mark.timeout(3600)
def test_killed_again_and_again_on_disk(tier, scene, undisturbed, chaos_seed):
    output = str(scene.scratch / "disk")
    check(tier, output, *fire(scene, output, tier.on_disk, chaos_seed, pause_s=0.05), *undisturbed)
    assert {path.name for path in (scene.scratch / "disk").iterdir()} >= {"run.json", "summary.json", "report.html"}
    assert not (scene.scratch / "disk" / "lock.json").exists()


@pytest.mark.timeout(3600)
def test_killed_again_and_again_on_s3(tier, scene, undisturbed, chaos_seed):
    output = "s3://chaos/run"
    check(tier, output, *fire(scene, output, tier.on_s3, chaos_seed + 1, pause_s=0.5), *undisturbed)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_killed_while_failed_rows_are_tried_again(scene, undisturbed, chaos_seed, monkeypatch):
    calm, output = str(scene.scratch / "calm"), str(scene.scratch / "again")
    for folder in (calm, output):
        shutil.copytree(scene.scratch / "undisturbed", folder)
    lost = undisturbed[0].query("status == 'unreachable'")["row_index"]
    recovered = ["ok" if fate == "code:502" else fate for fate in scene.sky.fates]
    monkeypatch.setattr(scene.sky, "fates", recovered)
    units = {"flags": ["--retry-failed"], "num_units": (lost // UNIT_ROWS).nunique()}
    annotate_under_fire(scene, calm, [], random.Random(0), **units)
    table = read(calm)
    assert set(scene.sky.rows()) == set(lost)
    assert (table["status"][lost] == "ok").all()
    pd.testing.assert_frame_equal(table.drop(lost), undisturbed[0].drop(lost), check_exact=True)
    _, seen = fire(scene, output, ("driver", "writer", "models", "driver"), chaos_seed + 2, 0.05, **units)
    pd.testing.assert_frame_equal(
        read(output).drop(columns="attempts"), table.drop(columns="attempts"), check_exact=True
    )
    assert set(scene.sky.rows()) == set(lost)
    assert (seen["faults"], seen["files"], seen["rows"]) == ({}, scene.num_units, len(table))


def fire(
    scene: Scene, output: str, kinds: tuple[str, ...], seed: int, pause_s: float, **retry: Any
) -> tuple[RunUnderFire, dict]:
    """Disturb a run while a reader looks on."""
    rng = random.Random(seed)
    kinds = tuple(rng.sample(kinds, len(kinds)))
    print(f"seed {seed}: {', '.join(kinds)}", flush=True)
    with reader(output, pause_s) as seen:
        run = annotate_under_fire(scene, output, kinds, rng, **retry)
    return run, seen


def check(tier: Tier, output: str, run: RunUnderFire, seen: dict, table: pd.DataFrame, requests: list) -> None:
    # Nothing lost, nothing twice, and the same predictions bit by bit. A row may have been tried in other runs, too.
    pd.testing.assert_frame_equal(
        read(output).drop(columns="attempts"), table.drop(columns="attempts"), check_exact=True
    )
    # Whoever looked meanwhile saw whole files of this run, that stayed as they were.
    assert (seen["faults"], seen["rewritten"]) == ({}, 0)
    assert (seen["files"], seen["rows"], len(seen["run_ids"])) == (run.scene.num_units, len(table), 1)
    # No more was in flight than the pools hold, and only that was done again, once for every kill that met it.
    config = RunConfig(catalog="c.csv", output=output, stages=tier.stages, cutouts=CutoutConfig(requests_per_s=None))
    most = max_units_in_flight(allot(config, **vars(CLUSTER)))
    assert max(len(kill.in_flight) for kill in run.kills) <= most
    before, now = (Counter(rows) for rows in (requests, run.scene.sky.rows()))
    for row, extra in (now - before).items():
        assert extra <= MAX_ATTEMPTS * sum(row in kill for kill in run.kills), f"row {row}: {extra} requests too many"
    tell(run, seen, most)


def tell(run: RunUnderFire, seen: dict, most: int) -> None:
    """Figures for docs/exactly_once.md."""
    again = [len(rows) for rows in asked_again(run)]
    in_flight = [UNIT_ROWS * len(kill.in_flight) for kill in run.kills]
    kinds = Counter(kill.kind for kill in run.kills)
    print(f"{len(run.kills)} kills in {time.monotonic() - run.began:.0f} s, {run.starts} starts: {dict(kinds)}")
    print(f"rows in flight at a kill: mean {mean(in_flight):.0f}, max {max(in_flight)}, at most {most * UNIT_ROWS}")
    print(f"rows done again per kill: mean {mean(again):.1f}, max {max(again)}; by kill: {again}")
    print(f"the reader looked {seen['polls']} times", flush=True)


def read(folder: str) -> pd.DataFrame:
    storage = {} if folder.startswith("s3://") else None
    return pd.read_parquet(f"{folder}/annotations", storage_options=storage).sort_values("row_index", ignore_index=True)
