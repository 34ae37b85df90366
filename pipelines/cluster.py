"""The Ray cluster of a program: the one it was submitted to, or one of its own on this machine."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from galaxray.config import ComputeConfig, RunConfig
from galaxray.memory import worker_environment

__all__ = ["Resources", "connect", "expected_resources"]

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Logical resources of a cluster."""

    num_cpus: float
    num_gpus: float


@contextmanager
def connect(config: ComputeConfig) -> Iterator[Resources]:
    """Connect to the cluster that ``RAY_ADDRESS`` names (``ray job submit`` sets it), or start a local one.

    A local cluster has a temporary folder and a token of its own, reports nothing to anyone, and ends with the block.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")  # we have our own
    if os.environ.get("RAY_ADDRESS"):
        import ray

        ray.init(log_to_driver=True, runtime_env={"env_vars": worker_environment()})
        try:
            yield _resources()
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
        with _silent_stderr():  # Ray's core says there that it will be silent
            ray.init(
                address="local",
                num_cpus=config.num_cpus or os.cpu_count(),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
                _temp_dir=temp_dir,
            )
        yield _resources()
    finally:
        ray.shutdown()
        shutil.rmtree(temp_dir, ignore_errors=True)


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


def expected_resources(config: RunConfig) -> Resources:
    """Resources of the cluster that :func:`connect` would give, without starting one."""
    if os.environ.get("RAY_ADDRESS"):
        with connect(config.compute) as resources:
            return resources
    num_gpus = 0
    if set(config.stages) - {"fetch"}:
        import torch

        num_gpus = torch.cuda.device_count()
    return Resources(num_cpus=float(config.compute.num_cpus or os.cpu_count() or 1), num_gpus=float(num_gpus))


def _resources() -> Resources:
    import ray

    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return Resources(num_cpus=found.get("CPU", 0.0), num_gpus=found.get("GPU", 0.0))
