"""The Ray cluster of a program: the one it was submitted to, or one of its own on this machine."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from galaxray.config import ComputeConfig, RunConfig
from galaxray.errors import ConfigError, RunError
from galaxray.memory import worker_environment
from pipelines.node_types import NodeType, find_node_types, most_resources
from pipelines.resources import Pool, Resources, describe

__all__ = ["Cluster", "connect", "expected_cluster", "refuse_paths_in_job"]

START_TRIES = 3
"""Ray gives a node 30 s to come up, and a busy machine may not manage."""

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What a cluster has, and what it may grow to."""

    now: Resources
    most: Resources

    def describe(self, pools: dict[str, Pool]) -> list[str]:
        """Pools and cluster in words, for ``--dry-run``."""

        def count(found: Resources) -> str:
            nodes = "1 node" if found.num_nodes == 1 else f"{found.num_nodes} nodes"
            return f"{found.num_cpus:g} CPUs and {found.num_gpus:g} GPUs on {nodes}"

        grows = "" if self.now == self.most else f"; planned for {count(self.most)}"
        return [
            *describe(pools, num_cpus=self.most.num_cpus, num_gpus=self.most.num_gpus),
            f"now       {count(self.now)}{grows}",
        ]


@contextmanager
def connect(config: ComputeConfig, *, show_worker_logs: bool = True) -> Iterator[Cluster]:
    """Connect to the cluster that ``RAY_ADDRESS`` names (``ray job submit`` sets it), or start a local one.

    A local cluster has a temporary folder and a token of its own, reports nothing to anyone, and ends with the block.
    What workers of another cluster log is shown here too, unless only JSON may be.

    Raises
    ------
    RunError
        If the cluster cannot be reached, or asks for another token.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")  # we have our own
    if address := os.environ.get("RAY_ADDRESS"):
        _join(address, show_worker_logs=show_worker_logs)
        import ray

        try:
            yield _cluster(config, find_node_types())
        finally:
            ray.shutdown()
        return
    # A token of its own, so that nobody else on this machine can run code in this cluster, and so that Ray need not
    # write one into the home folder.
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    os.environ.pop("RAY_AUTH_TOKEN_PATH", None)
    # Ray's core calls every actor that Ray Data starts an error on stderr; what ends a run comes as an exception.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Workers inherit the environment. Ray's own way, a runtime_env, would throw away the workers that it starts early.
    # The programs are not installed: workers find them, as the driver does, in the repository.
    os.environ.update(PYTHONPATH=python_path(), **worker_environment())
    import ray

    temp_dir = tempfile.mkdtemp(prefix="gr-", dir="/tmp")  # short: a socket's path has at most 107 bytes
    try:
        _start_own(config, temp_dir)
        yield _cluster(config, None)
    finally:
        ray.shutdown()
        shutil.rmtree(temp_dir, ignore_errors=True)


def _start_own(config: ComputeConfig, temp_dir: str) -> None:
    import ray

    for tries_left in reversed(range(START_TRIES)):
        try:
            with _silent_stderr():  # Ray's core says there that it will be silent
                ray.init(
                    address="local",
                    num_cpus=config.num_cpus or os.cpu_count(),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.WARNING,
                    _temp_dir=f"{temp_dir}/r",  # Ray opens this one to everybody, sockets and all
                )
            return
        except Exception as error:  # Ray raises just that
            ray.shutdown()
            if not tries_left:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise RunError(
                    f"Ray could not be started on this machine, {START_TRIES} times: {reason.rstrip('.')}. Nothing is "
                    "lost: on a machine that is less busy, the same command goes on"
                ) from error


def _join(address: str, *, show_worker_logs: bool) -> None:
    import ray

    host, _, port = address.rpartition(":")
    try:
        if port.isdigit() and "/" not in host:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=20).close()
        # Where only JSON may be shown, Ray's core must not say either how much it will log.
        with nullcontext() if show_worker_logs else _silent_stderr():
            ray.init(
                log_to_driver=show_worker_logs,
                logging_level=logging.INFO if show_worker_logs else logging.WARNING,
                runtime_env={"env_vars": worker_environment()},
            )
    except (OSError, RuntimeError, ray.exceptions.RayError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise RunError(
            f"RAY_ADDRESS {address}: this program cannot join a Ray cluster there ({reason}); see whether it is up, "
            "and whether RAY_AUTH_MODE and the token are those of the cluster"
        ) from error


def python_path() -> str:
    """The repository, and behind it what the user's ``PYTHONPATH`` names."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join([str(ROOT), *(path for path in paths if path not in ("", str(ROOT)))])


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Send what native code writes to stderr nowhere; exceptions come through."""
    sys.stderr.flush()
    saved = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def expected_cluster(config: RunConfig, *, show_worker_logs: bool = True) -> Cluster:
    """The cluster that :func:`connect` would give, without starting one."""
    if os.environ.get("RAY_ADDRESS"):
        with connect(config.compute, show_worker_logs=show_worker_logs) as cluster:
            return cluster
    num_gpus = 0
    if set(config.stages) - {"fetch"}:
        import torch

        num_gpus = torch.cuda.device_count()
    num_cpus = float(config.compute.num_cpus or os.cpu_count() or 1)
    now = Resources(num_cpus=num_cpus, num_gpus=float(num_gpus))
    return Cluster(now=now, most=most_resources(now, None, config.compute))


def in_job() -> bool:
    """Whether this program was started by ``ray job submit``."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def refuse_paths_in_job(config: RunConfig) -> None:
    """Refuse to write into the working folder of a job, which Ray removes when the job ends.

    Raises
    ------
    ConfigError
    """
    for flag, path in (("--output", config.output), ("--cutouts.cache", config.cutouts.cache)):
        if path and in_job() and "://" not in path and not Path(path).expanduser().is_absolute():
            raise ConfigError(
                f"{flag} {path} would be lost with the working folder of this job: give an absolute path on a disk "
                "that all nodes share" + (", or s3://" if flag == "--output" else "")
            )


def _cluster(config: ComputeConfig, types: Sequence[NodeType] | None) -> Cluster:
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    cpus = [node.get("CPU", 0.0) for node in nodes]
    gpus = [node.get("GPU", 0.0) for node in nodes]
    has_any = [cpu or gpu for cpu, gpu in zip(cpus, gpus, strict=True)]
    now = Resources(
        num_cpus=sum(cpus),
        num_gpus=sum(gpus),
        num_nodes=sum(map(bool, has_any)),
        node_cpus=min((cpu for cpu in cpus if cpu), default=None),
    )
    return Cluster(now=now, most=most_resources(now, types, config))
