from __future__ import annotations

import socket
from pathlib import Path

import pytest

from galaxray.config import ComputeConfig, RunConfig
from galaxray.errors import ConfigError, RunError
from galaxray.storage_errors import storage_errors
from pipelines.cluster import Cluster, _start_own, connect, refuse_paths_in_job
from pipelines.node_types import NodeType, most_resources, read_cluster_config
from pipelines.resources import Resources, allot

HEAD_ALONE = Resources(num_cpus=0, num_gpus=0, num_nodes=0)
TYPES = [NodeType(num_cpus=16, num_gpus=0, max_nodes=2), NodeType(num_cpus=4, num_gpus=1, max_nodes=3)]


def config(**settings) -> RunConfig:
    return RunConfig(**{"catalog": "c.csv", "output": "/out", **settings})


def test_a_cluster_is_planned_at_its_largest():
    most = most_resources(HEAD_ALONE, TYPES, ComputeConfig())
    assert most == Resources(num_cpus=44, num_gpus=3, num_nodes=5, node_cpus=4)
    pools = allot(config(), **vars(most))
    assert all(pool.min_actors == 1 for pool in pools.values())
    assert pools["models"].max_actors == 3
    assert pools["decode"].max_actors == 40  # what three models, fetching and writing leave


def test_a_cluster_that_does_not_grow_is_what_it_is():
    now = Resources(num_cpus=32, num_gpus=4, num_nodes=4, node_cpus=8)
    assert most_resources(now, None, ComputeConfig()) == now
    assert most_resources(now, [], ComputeConfig()) == now


def test_nodes_that_are_up_are_not_counted_twice():
    now = Resources(num_cpus=20, num_gpus=1, num_nodes=2, node_cpus=4)
    assert most_resources(now, TYPES, ComputeConfig()) == most_resources(HEAD_ALONE, TYPES, ComputeConfig())


def test_flags_win_over_what_is_found():
    flags = ComputeConfig(max_cpus=10, max_gpus=0)
    most = most_resources(HEAD_ALONE, TYPES, flags)
    assert (most.num_cpus, most.num_gpus) == (10, 0)
    assert allot(config(), **vars(most))["models"].num_gpus == 0
    # Where nothing is found, they say that nodes will come.
    most = most_resources(HEAD_ALONE, None, ComputeConfig(max_cpus=64, max_gpus=8))
    assert allot(config(), **vars(most))["models"].max_actors == 8


def test_a_dry_run_tells_what_is_there_and_what_may_come():
    cluster = Cluster(now=HEAD_ALONE, most=most_resources(HEAD_ALONE, TYPES, ComputeConfig()))
    *_, total, now = cluster.describe(allot(config(), **vars(cluster.most)))
    assert "of 44 logical CPUs, 1 to 3 of 3 GPUs" in total
    assert now == "now       0 CPUs and 0 GPUs on 0 nodes; planned for 44 CPUs and 3 GPUs on 5 nodes"


def test_the_configuration_of_a_cluster_says_what_it_may_grow_to(tmp_path):
    path = tmp_path / "ray_bootstrap_config.yaml"
    path.write_text(
        "max_workers: 6\nhead_node_type: head\navailable_node_types:\n"
        "  head: {resources: {CPU: 0}}\n"
        "  cpu: {resources: {CPU: 16}, max_workers: 2}\n"
        "  gpu: {resources: {CPU: 4, GPU: 1}, min_workers: 0}\n"
    )
    assert read_cluster_config(path) == [
        NodeType(num_cpus=16, num_gpus=0, max_nodes=2),
        NodeType(num_cpus=4, num_gpus=1, max_nodes=6),
    ]


@pytest.mark.parametrize(
    ("flag", "settings"),
    [("--output", {"output": "run"}), ("--cutouts.cache", {"cutouts": {"cache": "cutout-cache"}})],
)
def test_a_job_does_not_write_where_it_would_be_lost(monkeypatch, flag, settings):
    refuse_paths_in_job(config(**settings))  # outside of a job, a relative path is as good as any
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ConfigError, match=f"^{flag} .*would be lost"):
        refuse_paths_in_job(config(**settings))


@pytest.mark.parametrize("output", ["s3://bucket/run", "/shared/run", "~/run"])
def test_a_job_writes_to_lasting_places(monkeypatch, output):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    refuse_paths_in_job(config(output=output, cutouts={"cache": str(Path.cwd() / "cache")}))


def test_a_disk_that_only_the_head_has_is_told(tmp_path):
    """What a worker of another node meets when it reads its first unit."""
    refused = pytest.raises(RunError, match=f"^{tmp_path}: No such file.*all of them have to share this disk")
    with refused, storage_errors(str(tmp_path)):
        (tmp_path / "catalog/part-00000.parquet").read_bytes()


def test_a_cluster_that_is_not_there_is_told_at_once(monkeypatch):
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{taken.getsockname()[1]}")
        refused = pytest.raises(RunError, match=r"^RAY_ADDRESS 127.0.0.1:\d+: .*refused.*see whether it is up")
        with refused, connect(ComputeConfig()):
            pass


def test_a_ray_that_cannot_start_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # or it would write a token into the home folder
    too_long = tmp_path / ("x" * 100)
    with pytest.raises(RunError, match=r"Ray could not be started on this machine, 3 times: .*path length") as caught:
        _start_own(ComputeConfig(num_cpus=1), str(too_long))
    assert "\n" not in str(caught.value)
