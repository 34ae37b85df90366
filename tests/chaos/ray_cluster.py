"""A Ray cluster of three nodes on this machine, whose processes can be found and killed."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

ROOT = Path(__file__).resolve().parents[2]
NODE_CPUS = 4  # logical
OBJECT_STORE_BYTES = 100 * 2**20


class RayCluster:
    """A head that takes no work, where the driver runs, and two nodes that do the work.

    Parameters
    ----------
    address : str
        For ``RAY_ADDRESS``.
    """

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.address: str = cluster.address
        self._gone: list[psutil.Process] = []

    @property
    def nodes(self) -> list[Any]:
        """Nodes that do work, in an order that does not depend on chance."""
        return sorted(self._cluster.worker_nodes, key=lambda node: raylet_of(node).create_time())

    def add_node(self) -> None:
        self._cluster.add_node(num_cpus=NODE_CPUS, object_store_memory=OBJECT_STORE_BYTES)

    def lose_node(self, node: Any) -> None:
        """Kill a raylet, and with it its node; returns when every process of the node is gone."""
        raylet = raylet_of(node)
        orphans = raylet.children(recursive=True)
        raylet.kill()
        self._cluster.remove_node(node, allow_graceful=False)
        _, alive = psutil.wait_procs(orphans, timeout=60)
        self._gone += alive
        assert not alive, f"processes outlived their node: {alive}"

    def actors(self, *names: str) -> list[psutil.Process]:
        """Processes of actors whose title has one of these names, on any node."""
        found = []
        for node in [self._cluster.head_node, *self.nodes]:
            with suppress(psutil.NoSuchProcess):
                found += [child for child in raylet_of(node).children() if any(_does(child, name) for name in names)]
        return sorted(found, key=lambda process: process.pid)

    def close(self) -> None:
        """End every process, also those that a test has made orphans of."""
        ours = [*psutil.Process().children(recursive=True), *self._gone]
        mine = [process for process in ours if _does(process, "ray")]
        with suppress(AssertionError, psutil.Error):
            self._cluster.shutdown()
        for process in mine:
            with suppress(psutil.NoSuchProcess):  # psutil takes no other process of the same number for it
                process.kill()


@contextmanager
def ray_cluster(environment: Mapping[str, str]) -> Iterator[RayCluster]:
    """Start a cluster whose processes have this environment; end it with the block."""
    from ray.cluster_utils import Cluster

    scratch = Path(tempfile.mkdtemp(prefix="gc-", dir="/tmp"))  # short: a socket's path has at most 107 bytes
    (scratch / "ray").mkdir()
    settings = {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(scratch),  # there, and in no place that others share, it notes the address
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "OMP_NUM_THREADS": "1",
    }
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    with mock.patch.dict(os.environ, {**settings, **environment}):
        head = {"num_cpus": 0, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
        cluster = RayCluster(Cluster(initialize_head=True, head_node_args={**head, "temp_dir": f"{scratch}/ray"}))
        try:
            cluster.add_node()
            cluster.add_node()
            yield cluster
        finally:
            cluster.close()
            shutil.rmtree(scratch, ignore_errors=True)


def raylet_of(node: Any) -> psutil.Process:
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def _does(process: psutil.Process, what: str) -> bool:
    """Whether a process calls itself so."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE and what in " ".join(process.cmdline())
    except psutil.Error:
        return False
