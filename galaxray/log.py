"""What a program tells while it works: lines for people, or one JSON object per line for machines."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

__all__ = ["Log", "LogFormat", "name_run_in_logs"]

LogFormat = Literal["text", "json"]


class Log:
    """Tells what happens, on stderr.

    Parameters
    ----------
    format : {"text", "json"}
        ``json`` writes objects with ``time``, ``level``, ``event``, ``run_id`` (null until it is known), ``message``
        and what else belongs to the event.
    stream : file
    """

    def __init__(self, format: LogFormat = "text", stream: TextIO | None = None) -> None:
        self.format = format
        self.stream = sys.stderr if stream is None else stream
        self.run_id: str | None = None

    @property
    def is_for_a_terminal(self) -> bool:
        """Whether a person may see a bar that moves."""
        return self.format == "text" and self.stream.isatty()

    def say(self, event: str, message: str, *, level: Literal["info", "error"] = "info", **fields: Any) -> None:
        """Tell one thing.

        Parameters
        ----------
        event : str
            What happened, in one word.
        message : str
            The same for people.
        level : {"info", "error"}
        **fields
            What else a machine may want to know; JSON values.
        """
        if self.format == "text":
            line = f"error: {message}" if level == "error" else message
        else:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            head = {"time": now, "level": level, "event": event, "run_id": self.run_id, "message": message}
            line = json.dumps(head | fields)
        print(line, file=self.stream, flush=True)


def name_run_in_logs(run_id: str) -> None:
    """Put the run's name into what galaxray logs in this process, a worker's."""
    logger = logging.getLogger("galaxray")
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler())
    form = logging.Formatter(f"%(asctime)s %(levelname)s run {run_id} %(name)s: %(message)s")
    for handler in logger.handlers:
        handler.setFormatter(form)
    logger.propagate = False
