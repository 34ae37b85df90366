"""A run of the real program on a real cluster, the ways to kill a part of it, and what the kills cost."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pyarrow.parquet as pq
from faulty_sky import FaultySky
from ray_cluster import ROOT, RayCluster, raylet_of
from slow_store import SlowStore

from galaxray.storage import LocalFolder, open_folder

ACTORS = {
    "fetch": "MapBatches(Fetching)",
    "decode": "MapBatches(Decoding)",
    "models": "MapBatches(Models)",
    "write": "MapBatches(Writing)",
    "governor": "GovernorActor",
}
KINDS = ("driver", *ACTORS, "node", "writer")
"""What is killed: the driver, a worker of a stage, the governor of requests, a raylet with its node, the writer between
writing and commit."""

UNIT_ROWS = 16
DEADLINE_S = 240.0  # for whatever is waited for: the machine may be busy
SLOW_DISK_S = 30.0

SLOW_DISK = f"""
import os, time

_fsync = os.fsync

def _slow_fsync(descriptor):
    until = time.monotonic() + {SLOW_DISK_S}
    while os.path.exists(os.environ["CHAOS_SLOW_DISK"]) and time.monotonic() < until:
        time.sleep(0.01)
    _fsync(descriptor)

if "CHAOS_SLOW_DISK" in os.environ:
    os.fsync = _slow_fsync
"""
"""Becomes ``sitecustomize.py`` of the workers: while a certain file is there, their disk takes its time."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """A kill, and what was under way then."""

    kind: str
    process: str
    began: float
    time: float
    """When the run began and when nothing of what was killed was left (``time.monotonic``)."""
    done: int
    in_flight: frozenset[int]
    """Units that the program had asked for since it was started, and that had no file."""
    met: frozenset[int]
    """These, and those that what was killed, or its orphans, began before they were gone."""

    def __contains__(self, row: int) -> bool:
        return row // UNIT_ROWS in self.met

    def __str__(self) -> str:
        when, flight = f"{self.time - self.began:6.1f} s", f"{self.done} units done, {len(self.in_flight)} in flight"
        return f"{when}: {self.kind} ({self.process}), {flight}"


@dataclass
class Scene:
    """Where a run takes place."""

    cluster: RayCluster
    sky: FaultySky
    store: SlowStore
    catalog: Path
    scratch: Path
    flags: Sequence[str]

    @property
    def num_units(self) -> int:
        return -(-len(self.sky.fates) // UNIT_ROWS)

    @property
    def slow_disk(self) -> Path:
        return self.scratch / "slow-disk"


@dataclass
class RunUnderFire:
    """The program at work on one run folder, started again whenever it is killed.

    What is there before is not done: with ``--retry-failed`` among the flags, files are written anew.
    """

    scene: Scene
    output: str
    flags: Sequence[str]
    num_units: int
    kills: list[Kill] = field(default_factory=list)
    starts: int = 0

    def __post_init__(self) -> None:
        self.folder = open_folder(self.output)
        # Twenty listings of S3 a second would keep the store and this process so busy that little is left for the run.
        self.pause_s = 0.05 if isinstance(self.folder, LocalFolder) else 1.0
        self.before = set(self.folder.entries("annotations"))
        self.began = time.monotonic()
        self.log = self.scene.scratch / f"{re.sub(r'[^a-z0-9]', '-', self.output.lower())[-30:]}.log"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "pipelines/annotate_catalog.py", "--catalog", str(self.scene.catalog)]
        environment = os.environ | {"RAY_ADDRESS": self.scene.cluster.address}
        with self.log.open("ab") as log:
            self.program = subprocess.Popen(
                [*command, "--output", self.output, *self.scene.flags, *self.flags],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.starts += 1
        self.started = time.monotonic()

    def done(self) -> set[int]:
        return {int(entry.name[5:-8]) for entry in set(self.folder.entries("annotations")) - self.before}

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        """Wait until something is so, while the program works."""
        return self._wait(lambda: condition() or (self.program.poll() is not None and self._fail("ended")))

    def finish(self) -> None:
        """Wait until the program has ended well."""
        self._wait(lambda: self.program.poll() is not None)
        if self.program.returncode != 0:
            self._fail("ended")

    def _wait(self, condition: Callable[[], Any]) -> Any:
        """Wait until something is so; each unit that is finished gives it time for another."""
        until, done = time.monotonic() + DEADLINE_S, 0
        while not (found := condition()):
            if (now := len(self.done())) > done:
                until, done = time.monotonic() + DEADLINE_S, now
            if time.monotonic() > until:
                self._fail("came to nothing")
            time.sleep(self.pause_s)
        return found

    def _fail(self, how: str) -> NoReturn:
        raise AssertionError(f"the program {how} (status {self.program.poll()}): {self.tail()}")

    def close(self) -> None:
        self.program.kill()
        self.program.wait()

    def tail(self) -> str:
        return self.log.read_text()[-3000:]

    def kill(self, kind: str, rng: random.Random) -> None:
        """Kill something, and note what was under way."""
        since = self.started
        victim = {"driver": self._driver, "node": self._node, "writer": self._writer}.get(kind, self._worker)
        process = victim(kind, rng)
        done, in_flight = self.struck
        kill = Kill(
            kind=kind,
            process=process,
            began=self.began,
            time=time.monotonic(),
            done=len(done),
            in_flight=frozenset(in_flight),
            met=frozenset(self._asked(since) - done),
        )
        self.kills.append(kill)
        print(kill, flush=True)

    def _asked(self, since: float) -> set[int]:
        return {row // UNIT_ROWS for _, row in self.scene.sky.requests(since)}

    def _strike(self, kill: Callable[[], Any]) -> None:
        done = self.done()
        self.struck = (done, self._asked(self.started) - done)
        kill()

    def _driver(self, kind: str, rng: random.Random) -> str:
        workers = self.scene.cluster.actors(*ACTORS.values())
        self._strike(self.program.kill)
        self.program.wait()
        pid = self.program.pid
        at_once = rng.random() < 0.5  # while its workers are still there
        if at_once:
            self.start()
        killed = time.monotonic()
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert not alive, f"workers outlived their driver: {alive}"
        gone = f"its workers were gone {time.monotonic() - killed:.1f} s later"
        if not at_once:
            self.start()
        return f"pid {pid}, {gone}, the program was started again {'at once' if at_once else 'then'}"

    def _node(self, kind: str, rng: random.Random) -> str:
        cluster = self.scene.cluster
        node = rng.choice(cluster.nodes)
        raylet = raylet_of(node)
        self._strike(lambda: cluster.lose_node(node))
        cluster.add_node()
        return f"raylet pid {raylet.pid}"

    def _worker(self, kind: str, rng: random.Random) -> str:
        worker = rng.choice(self.wait_for(lambda: self.scene.cluster.actors(ACTORS[kind])))
        self._strike(worker.kill)
        psutil.wait_procs([worker], timeout=30)
        return f"pid {worker.pid}"

    def _writer(self, kind: str, rng: random.Random) -> str:
        return self._writer_to_disk() if isinstance(self.folder, LocalFolder) else self._writer_to_store()

    def _writer_to_disk(self) -> str:
        staging = Path(self.output) / ".staging"
        self.scene.slow_disk.touch()
        try:
            worker, staged = self.wait_for(lambda: next(self._holders(staging), None))
            self._strike(worker.kill)
            psutil.wait_procs([worker], timeout=30)
        finally:
            self.scene.slow_disk.unlink()
        unit = json.loads(pq.read_metadata(staged).metadata[b"galaxray"])["unit"]
        assert unit not in self.done(), "the writer was killed too late"
        return f"pid {worker.pid}, had written unit {unit} to {staged.name}"

    def _holders(self, staging: Path) -> Iterator[tuple[psutil.Process, Path]]:
        """Workers with an open file in the staging folder that is a whole unit."""
        for worker in self.scene.cluster.actors(ACTORS["write"]):
            for descriptor in _open_files(worker):
                if descriptor.parent == staging and _is_unit(descriptor):
                    yield worker, descriptor

    def _writer_to_store(self) -> str:
        key, port = self.scene.store.hold_next_put(DEADLINE_S)
        for worker in self.scene.cluster.actors(ACTORS["write"]):
            if any(connection.laddr.port == port for connection in worker.net_connections("tcp")):
                self._strike(worker.kill)
                psutil.wait_procs([worker], timeout=30)
                unit = int(key[-16:-8])
                assert unit not in self.done(), "a put that was cut counts as done"
                return f"pid {worker.pid}, was putting unit {unit}"
        raise AssertionError(f"nobody is putting {key}")


def annotate_under_fire(
    scene: Scene,
    output: str,
    kinds: Sequence[str],
    rng: random.Random,
    *,
    flags: Sequence[str] = (),
    num_units: int = 0,
) -> RunUnderFire:
    """Do a run, and kill as often as there are kinds, at moments spread over it."""
    scene.sky.restart()
    run = RunUnderFire(scene, output, flags, num_units or scene.num_units)
    try:
        for number, kind in enumerate(kinds):
            share = (number + rng.random()) / (len(kinds) + 1)
            run.wait_for(lambda share=share: len(run.done()) >= share * run.num_units)
            time.sleep(rng.uniform(0, 0.5))
            run.kill(kind, rng)
        run.finish()
    finally:
        run.close()
    return run


def asked_again(run: RunUnderFire) -> list[Counter[int]]:
    """Requests for rows that had been asked for before, by kill and row; each is put down to the last kill that met it.

    A fault that heals counts, too, if it was met before a kill and healed after.
    """
    again: list[Counter[int]] = [Counter() for _ in run.kills]
    seen: set[int] = set()
    for moment, row in run.scene.sky.requests():
        blame = [number for number, kill in enumerate(run.kills) if kill.time <= moment and row in kill]
        if row in seen and blame:
            again[blame[-1]][row] += 1
        seen.add(row)
    return again


def _open_files(process: psutil.Process) -> Iterator[Path]:
    try:
        for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
            try:
                yield descriptor.readlink()
            except OSError:
                continue
    except OSError:
        return


def _is_unit(path: Path) -> bool:
    try:
        return b"galaxray" in pq.read_metadata(path).metadata
    except (OSError, ValueError):  # not written to its end yet
        return False
