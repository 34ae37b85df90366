"""One program at a time works on a run folder.

A program writes ``lock.json`` into the folder and renews it every few seconds until it ends. Who finds such a file
takes it over if its writer is dead: at once if that was a process of this machine, otherwise when the file has not been
renewed for a while. No clocks are compared, only whether the file changes, so that neither a clock that jumps nor two
machines that disagree about the time matter. Should two programs work on a folder all the same (one was suspended, and
was taken for dead), the table comes to no harm: both write the same rows under the same names.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from galaxray.errors import RunBusyError, RunError
from galaxray.storage import Folder

__all__ = ["Holder", "RunLock", "find_holder"]

NAME = "lock.json"
RENEW_S = 10.0
PATIENCE_S = 45.0  # a few renewals, that a slow store may delay


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The program that holds a lock."""

    name: str
    """For people: which process on which machine."""
    is_alive: bool | None
    """None if it is of another machine: then it is alive if the content changes, every ``RENEW_S`` seconds."""
    content: bytes


def find_holder(folder: Folder) -> Holder | None:
    """See who holds the lock of a run folder, without touching it; None if nobody does."""
    try:
        content = folder.read(NAME)
    except FileNotFoundError:
        return None
    lock, is_alive = _parse(content), None
    if lock.get("place") == _place():
        is_alive = _process_start(int(lock["pid"])) == lock.get("process_start")
    return Holder(name=_describe(lock), is_alive=is_alive, content=content)


class RunLock:
    """Keeps other programs away from a run folder; used in a ``with`` statement.

    Parameters
    ----------
    folder : Folder
    renew_s : float
        Seconds between two renewals.
    patience_s : float
        Seconds without a renewal after which the writer of another machine counts as dead.
    """

    def __init__(self, folder: Folder, *, renew_s: float = RENEW_S, patience_s: float = PATIENCE_S) -> None:
        self._folder = folder
        self._renew_s = renew_s
        self._patience_s = patience_s
        self._mine: dict[str, Any] = {
            "id": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "place": _place(),
            "pid": os.getpid(),
            "process_start": _process_start(os.getpid()),
            "renewals": 0,
        }
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, name="galaxray-lock", daemon=True)
        self._lost_to: str | None = None

    def __enter__(self) -> Self:
        """Take the lock.

        Raises
        ------
        RunBusyError
            If another program works on the folder.
        """
        while not self._folder.create(NAME, self._content()):
            found = self._read()
            if found is None:
                continue
            theirs = _parse(found)
            if self._is_mine(theirs):  # a store may take it, and fail to say so
                break
            if not self._is_dead(found):
                raise RunBusyError(
                    f"{self._folder.root} is being worked on by {_describe(theirs)}: wait for it, end it, "
                    "or use another --output"
                )
            if self._folder.replace(NAME, found, self._content()):  # or a third program was faster
                break
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(self._patience_s)
        # Neither a store that is away nor a disk that has become read-only may hide why the program ends. What it
        # leaves is the lock of a dead program, that holds nobody up.
        with suppress(Exception):
            if not self._thread.is_alive() and self._is_mine(_parse(self._read())):
                self._folder.remove(NAME)

    def check(self) -> None:
        """Refuse to go on without the lock.

        Raises
        ------
        RunError
            If another program has taken it over.
        """
        if self._lost_to is not None:
            raise RunError(
                f"{self._folder.root} was taken over by {self._lost_to}, as this program did not answer for a while. "
                "What is written is kept"
            )

    def _keep_renewing(self) -> None:
        while not self._ended.wait(self._renew_s):
            try:
                found = self._read()
                if found is not None and not self._is_mine(_parse(found)):
                    self._lost_to = _describe(_parse(found))
                    return
                self._mine["renewals"] += 1
                self._folder.write(NAME, self._content())
            except Exception:  # a full disk, a store that is away for a moment: the next renewal may do
                continue

    def _is_dead(self, found: bytes) -> bool:
        theirs = _parse(found)
        if theirs.get("place") == self._mine["place"]:
            return _process_start(int(theirs["pid"])) != theirs.get("process_start")
        until = time.monotonic() + self._patience_s
        while time.monotonic() < until:
            time.sleep(min(1.0, self._patience_s / 10))
            if self._read() != found:
                return False
        return True

    def _is_mine(self, lock: dict[str, Any]) -> bool:
        return bool(lock.get("id") == self._mine["id"])

    def _read(self) -> bytes | None:
        """Content of the lock; None if there is none."""
        try:
            return self._folder.read(NAME)
        except FileNotFoundError:
            return None

    def _content(self) -> bytes:
        return json.dumps(self._mine).encode()


def _parse(content: bytes | None) -> dict[str, Any]:
    """What a lock says; nothing if it cannot be read: its writer died, or is just about to write it."""
    try:
        found = json.loads(content or b"")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _describe(lock: dict[str, Any]) -> str:
    return f"process {lock.get('pid', '?')} on {lock.get('host', 'an unknown machine')}"


def _place() -> str:
    """Name where process numbers mean the same: this machine, since it was started, and this container on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux: nobody else is ever in the same place
        return uuid.uuid4().hex


def _process_start(pid: int) -> str | None:
    """When a process of this machine began, in ticks since the machine did; None if it has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else fields[18]
