"""The service of the synthetic sky in a process of its own, for demonstrations and tests."""

from __future__ import annotations

import subprocess
import sys
from types import TracebackType

__all__ = ["SyntheticService"]


class SyntheticService:
    """Serve the synthetic sky on a free loopback port while the context lasts.

    The process ends with its parent, however that ends. Examples::

        with SyntheticService() as service:
            requests.get(f"{service.base_url}/viewer/jpeg-cutout", params={"ra": 150.1, "dec": 2.2})

    Parameters
    ----------
    port : int
        0 takes a free one.
    num_threads : int
        Threads that draw.
    """

    def __init__(self, port: int = 0, num_threads: int = 2) -> None:
        self._arguments = ["--port", str(port), "--threads", str(num_threads), "--until-stdin-closes"]
        self._process: subprocess.Popen[str] | None = None
        self.base_url = ""

    def __enter__(self) -> SyntheticService:
        """Start the process and wait until it answers.

        Raises
        ------
        RuntimeError
            If it ended at once, e.g. because the port is taken.
        """
        command = [sys.executable, "-m", "galaxray.synthetic", *self._arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.base_url = self._process.stdout.readline().strip()
        if not self.base_url:
            status = self._close()
            raise RuntimeError(f"the synthetic sky's service ended at once with status {status}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process."""
        self._close()

    def _close(self) -> int | None:
        if self._process is None:
            return None
        with self._process as process:  # closes the pipes, which tells the process to end
            process.terminate()
        self._process = None
        return process.returncode
