"""The head of a Ray cluster as ``ray start --head`` makes it, in processes of its own that end with the test."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from ray.core.generated import gcs_pb2

RAY = str(Path(sys.executable).parent / "ray")
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider"
COMMANDS = (
    "initialization_commands",
    *("setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands"),
)
HEAD_ID = "f" * 51 + "00000"
"""What that provider calls the head; the nodes that it adds are numbered on."""


class HeadNode:
    """A running head.

    Parameters
    ----------
    scratch : Path
        Short folder of its own; also the home folder of its processes.
    environment : mapping of str to str
        Of the head, and so of what runs on its cluster.
    """

    def __init__(
        self, scratch: Path, environment: Mapping[str, str], num_cpus: int, node_types: Mapping[str, Any] | None
    ) -> None:
        self.scratch = scratch
        self._mark = f"GALAXRAY_TEST_HEAD={uuid.uuid4().hex}"
        self.address, self.dashboard = (f"127.0.0.1:{port}" for port in _free_ports(2))
        name, _, value = self._mark.partition("=")
        self.environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "HOME": str(scratch), name: value}
        self.environment |= {"RAY_ADDRESS": self.address}
        command = [RAY, "start", "--head", "--block", f"--num-cpus={num_cpus}", f"--temp-dir={scratch}/ray"]
        command += self._ports()
        if node_types is not None:
            command.append(f"--autoscaling-config={self._write_cluster_config(node_types)}")
            self.environment |= {
                "RAY_FAKE_CLUSTER": "1",
                "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
                "RAY_enable_autoscaler_v2": "1",
                "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            }
        self.environment |= environment
        self.log = scratch / "head.log"
        starting = {name: value for name, value in self.environment.items() if name != "RAY_ADDRESS"}
        with self.log.open("w") as log:
            self._process = subprocess.Popen(command, env=starting, stdout=log, stderr=log, start_new_session=True)

    def _ports(self) -> list[str]:
        gcs, dashboard = (address.rpartition(":")[2] for address in (self.address, self.dashboard))
        agent, client = _free_ports(2)
        return [
            *("--node-ip-address=127.0.0.1", f"--port={gcs}", f"--dashboard-port={dashboard}"),
            *(f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"),
        ]

    def _write_cluster_config(self, node_types: Mapping[str, Any]) -> Path:
        """Put the cluster's configuration where ``ray up`` does."""
        config = {
            "cluster_name": "galaxray-test",
            "max_workers": sum(kind["max_workers"] for kind in node_types.values()),
            "idle_timeout_minutes": 0.1,
            "provider": {
                "type": "external",
                "module": f"{PROVIDER}.FakeMultiNodeProvider",
                "gcs_address": self.address,
                "head_node_id": HEAD_ID,
                "launch_multiple": True,
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            "head_node_type": "ray.head.default",
            "available_node_types": {
                "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
                **{name: {"node_config": {}, "min_workers": 0, **kind} for name, kind in node_types.items()},
            },
            **{name: {} for name in ("auth", "docker", "file_mounts")},
            **{name: [] for name in (*COMMANDS, "cluster_synced_files")},
        }
        path = self.scratch / "ray_bootstrap_config.yaml"
        path.write_text(json.dumps(config))  # JSON is YAML
        return path

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while not condition():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.2)

    def is_up(self) -> bool:
        """Whether jobs can be submitted."""
        host, _, port = self.dashboard.partition(":")
        with closing(socket.socket()) as probe:
            return "--block" in self.log.read_text() and probe.connect_ex((host, int(port))) == 0

    def processes(self) -> list[psutil.Process]:
        """Every process that the head has started, and those that these have."""
        found = set()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError, psutil.Error):
                if self._mark.encode() in path.read_bytes():
                    process = psutil.Process(int(path.parent.name))
                    # Workers write their titles over their environments.
                    found |= {process, *process.children(recursive=True)}
        return list(found)

    def raylets(self) -> dict[str, psutil.Process]:
        """The process of each node whose death is the loss of the node, by the node's number."""
        found = {}
        for process in self.processes():
            with suppress(psutil.Error, KeyError):
                if process.name() == "raylet":
                    found[node_number(process.environ()["RAY_OVERRIDE_NODE_ID_FOR_TESTING"])] = process
        return found

    def nodes_with(self, stage: str) -> set[str]:
        """Nodes that have an actor of a stage (the name of its class)."""
        found = set()
        for number, raylet in self.raylets().items():
            with suppress(psutil.Error):
                if any(f"MapBatches({stage})" in " ".join(worker.cmdline()) for worker in raylet.children()):
                    found.add(number)
        return found

    def nodes(self) -> dict[str, bool]:
        """Nodes beside the head that there are and were, by number, and whether they are alive."""
        from ray._raylet import GcsClient

        found = GcsClient(address=self.address).get_all_node_info(timeout=30).values()
        alive = {node_number(node.node_id.hex()): node.state == gcs_pb2.GcsNodeInfo.ALIVE for node in found}
        return {number: lives for number, lives in alive.items() if number != node_number(HEAD_ID)}

    def close(self) -> None:
        for stop in (signal.SIGTERM, signal.SIGKILL):
            processes = self.processes()
            for process in processes:
                with suppress(psutil.Error):
                    process.send_signal(stop)
            psutil.wait_procs(processes, timeout=10)
        self._process.wait(10)


def node_number(node_id: str) -> str:
    """The end of a node's identifier, by which the provider numbers them."""
    return node_id[-5:].lstrip("0") or "0"


@contextmanager
def head_node(
    environment: Mapping[str, str],
    *,
    num_cpus: int = 0,
    node_types: Mapping[str, Any] | None = None,
    timeout_s: float = 150,
) -> Iterator[HeadNode]:
    """Start a head, and end it and all of its cluster with the block.

    Parameters
    ----------
    environment : mapping of str to str
        Of its processes, beside that of this one.
    num_cpus : int
        Logical CPUs of the head; with none it takes no work.
    node_types : mapping, optional
        What Ray's autoscaler may add, by the fake provider that makes nodes on this machine.
    """
    scratch = Path(tempfile.mkdtemp(prefix="gh-", dir="/tmp"))  # short: a socket's path has at most 107 bytes
    (scratch / "ray").mkdir()
    try:
        head = _started(lambda: HeadNode(scratch, environment, num_cpus, node_types), timeout_s)
        try:
            yield head
        finally:
            head.close()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _started(start: Callable[[], HeadNode], timeout_s: float, tries: int = 3) -> HeadNode:
    """Wait until a head is up; on a busy machine Ray gives up after 30 s, which cannot be set, and is asked again."""
    head = start()
    try:
        head.wait(head.is_up, timeout_s)
    except BaseException as error:
        head.close()
        if tries > 1 and "timed out during startup" in str(error):
            return _started(start, timeout_s, tries - 1)
        raise
    return head


def _free_ports(count: int) -> list[int]:
    """Ports above those that Ray gives its workers (10002 to 19999)."""
    with closing(socket.socket()) as first, closing(socket.socket()) as second:
        sockets = (first, second)[:count]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
