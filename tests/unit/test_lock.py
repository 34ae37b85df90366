"""One program at a time works on a run folder, and a dead one is no trap."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from galaxray.catalog import open_catalog
from galaxray.config import RunConfig
from galaxray.errors import RunBusyError, RunError
from galaxray.lock import NAME, RunLock
from galaxray.plan import plan_run
from galaxray.runs import Run
from galaxray.schema import to_table
from galaxray.storage import LocalFolder, S3Folder

ELSEWHERE = {"id": "theirs", "host": "node7", "place": "another machine", "pid": 1, "process_start": "1", "renewals": 3}


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path):
    if request.param == "local":
        return LocalFolder(str(tmp_path / "run"))
    return S3Folder(f"s3://{request.getfixturevalue('s3_bucket')}/run")


def quick(folder) -> RunLock:
    return RunLock(folder, renew_s=0.05, patience_s=0.4)


def is_lost(lock: RunLock) -> bool:
    try:
        lock.check()
    except RunError:
        return True
    return False


def test_the_second_is_refused_and_the_next_is_not(folder):
    with quick(folder) as first:
        with pytest.raises(RunBusyError, match=f"worked on by process {os.getpid()} on "), quick(folder):
            pass
        first.check()
        assert folder.exists(NAME)
    assert not folder.exists(NAME)
    with quick(folder):
        pass


def test_of_many_at_once_one_gets_it(folder):
    got, refused = [], []
    everybody_is_here = threading.Barrier(8)

    def work() -> None:
        everybody_is_here.wait()
        try:
            with RunLock(folder):
                got.append(1)
                everybody_has_tried.wait()
        except RunBusyError:
            refused.append(1)
            everybody_has_tried.wait()

    everybody_has_tried = threading.Barrier(8)
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (len(got), len(refused)) == (1, 7)


def test_of_many_who_find_a_dead_ones_lock_one_gets_it(folder):
    folder.write(NAME, json.dumps(ELSEWHERE).encode())
    got, refused = [], []
    everybody_is_here, everybody_has_tried = threading.Barrier(8), threading.Barrier(8)

    def work() -> None:
        everybody_is_here.wait()
        try:
            with quick(folder) as lock:
                got.append(lock)
                everybody_has_tried.wait()
                lock.check()
        except RunBusyError:
            refused.append(1)
            everybody_has_tried.wait()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (len(got), len(refused)) == (1, 7)
    assert not folder.exists(NAME)


def test_only_what_is_as_expected_is_replaced(folder):
    assert not folder.replace("a", b"one", b"two")
    folder.write("a", b"one")
    assert not folder.replace("a", b"another", b"two")
    assert folder.read("a") == b"one"
    assert folder.replace("a", b"one", b"two")
    assert folder.read("a") == b"two"


SUSPENDED = """
import sys, time
from galaxray import lock
from galaxray.errors import RunError
from galaxray.runs import open_run

lock._place = lambda: "another machine"  # where nobody can see that this process is alive
run = open_run(sys.argv[1])
with lock.RunLock(run.folder, renew_s=0.3, patience_s=1) as held:
    try:
        for round in range(10_000):
            print(round, flush=True)
            run.commit(round % run.num_units, commit_of(run, round % run.num_units))
            held.check()
    except RunError as error:
        print(error)
"""


def test_a_suspended_program_that_was_taken_over_does_no_harm_when_it_goes_on(tmp_path):
    config = RunConfig(catalog=str(tmp_path / "c.csv"), output=str(tmp_path / "run"), compute={"rows_per_unit": 32})
    lines = [f"g{i},{i},{i % 90}" for i in range(96)]
    (tmp_path / "c.csv").write_text("\n".join(["object_id,ra,dec", *lines]) + "\n")
    run = plan_run(config, open_catalog(config.catalog), {}, versions={})
    script = inspect.getsource(commit_of) + SUSPENDED
    command = [sys.executable, "-c", "from __future__ import annotations\n" + IMPORTS + script, run.output]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        for _ in range(5):
            program.stdout.readline()
        before = run.folder.read(NAME)
        while run.folder.read(NAME) == before:
            time.sleep(0.001)
        program.send_signal(signal.SIGSTOP)  # not in the middle of a renewal, which would take the lock back
        try:
            with RunLock(run.folder, renew_s=0.3, patience_s=1) as lock:
                for unit in range(run.num_units):
                    run.commit(unit, commit_of(run, unit))
                finished = {name: run.folder.read(f"annotations/{name}") for name in run.folder.list("annotations")}
                program.send_signal(signal.SIGCONT)
                said = program.stdout.read()
                assert program.wait(60) == 0
                lock.check()
        finally:
            program.kill()
    assert f"taken over by process {os.getpid()}" in said.splitlines()[-1]
    assert len(finished) == run.num_units
    assert finished == {name: run.folder.read(f"annotations/{name}") for name in run.folder.list("annotations")}


IMPORTS = """
import numpy as np, pyarrow as pa
from galaxray.runs import Run
from galaxray.schema import to_table
"""


def commit_of(run: Run, unit: int) -> pa.Table:
    """A finished unit."""
    batch = run.read_unit(unit)
    batch["smooth_fraction"] = batch["row_index"].astype(np.float32)
    return to_table(batch)


def test_a_killed_program_of_this_machine_holds_nobody_up(tmp_path):
    script = (
        "import sys, time\nfrom galaxray.lock import RunLock\nfrom galaxray.storage import LocalFolder\n"
        "with RunLock(LocalFolder(sys.argv[1])):\n    print('mine', flush=True)\n    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "mine\n"
        lock = RunLock(LocalFolder(str(tmp_path)))
        with pytest.raises(RunBusyError), lock:
            pass
        program.send_signal(signal.SIGKILL)
    began = time.monotonic()
    with RunLock(LocalFolder(str(tmp_path))):
        assert time.monotonic() - began < 5  # and not the patience for other machines


def test_a_process_number_that_was_given_anew_is_another_process(tmp_path):
    folder = LocalFolder(str(tmp_path))
    with quick(folder):
        mine = json.loads(folder.read(NAME))
    folder.write(NAME, json.dumps(mine | {"id": "theirs", "process_start": "1"}).encode())
    with quick(folder):
        pass


def test_a_lock_of_another_machine_counts_while_it_is_renewed(folder):
    folder.write(NAME, json.dumps(ELSEWHERE).encode())
    ended = threading.Event()

    def renew() -> None:
        renewals = 3
        while not ended.wait(0.05):
            renewals += 1
            folder.write(NAME, json.dumps(ELSEWHERE | {"renewals": renewals}).encode())

    renewing = threading.Thread(target=renew)
    renewing.start()
    try:
        with pytest.raises(RunBusyError, match="process 1 on node7"), quick(folder):
            pass
    finally:
        ended.set()
        renewing.join()
    with quick(folder):  # nobody renews it any more
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_an_unreadable_lock_is_no_trap(tmp_path, content):
    folder = LocalFolder(str(tmp_path))
    folder.write(NAME, content)
    with quick(folder):
        pass


def test_who_was_taken_for_dead_is_told_and_leaves_the_lock_alone(folder):
    with quick(folder) as lock:
        folder.write(NAME, json.dumps(ELSEWHERE).encode())
        until = time.monotonic() + 60
        while not is_lost(lock) and time.monotonic() < until:
            time.sleep(0.02)
        with pytest.raises(RunError, match="taken over by process 1 on node7"):
            lock.check()
    assert json.loads(folder.read(NAME))["id"] == "theirs"


def test_a_folder_that_cannot_be_written_for_a_moment_loses_nothing(tmp_path, monkeypatch):
    folder = LocalFolder(str(tmp_path))
    with quick(folder) as lock:
        write, failures = folder.write, []

        def fail_twice(name: str, content: bytes) -> None:
            if len(failures) < 2:
                failures.append(name)
                raise OSError(28, "No space left on device")
            write(name, content)

        monkeypatch.setattr(folder, "write", fail_twice)
        before = json.loads((Path(folder.root) / NAME).read_bytes())["renewals"]
        until = time.monotonic() + 60
        while json.loads((Path(folder.root) / NAME).read_bytes())["renewals"] <= before and time.monotonic() < until:
            time.sleep(0.02)
        assert len(failures) == 2
        lock.check()
