"""Show how a run stands, while it goes on or afterwards: ``python pipelines/status.py out --watch``."""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # only the library is installed, not the programs

from galaxray.errors import ConfigError, GalaxrayError
from galaxray.status import RunWatch
from galaxray.storage_errors import storage_errors

WATCH_S = 5.0


class Parser(ArgumentParser):
    """Explains a wrong flag in one line, as the other programs do."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help shows all flags")


def show(arguments: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = Parser(description="Show how a run stands, while it goes on or afterwards. Nothing is written.")
    parser.add_argument("output", metavar="FOLDER", help="run folder: a path or s3://")
    parser.add_argument("--watch", action="store_true", help=f"look again every {WATCH_S:g} s until nobody works on it")
    parser.add_argument("--json", action="store_true", help="one JSON object per look, on one line")
    flags = parser.parse_args(arguments)
    with storage_errors(flags.output):
        watch = RunWatch(flags.output)
    while True:
        with storage_errors(flags.output):
            status = watch.look()
        if flags.json:
            print(json.dumps(asdict(status)), flush=True)
        else:
            clear = "\033[H\033[J" if flags.watch and sys.stdout.isatty() else ""
            print(f"{clear}{status.describe()}", flush=True)
        if not (flags.watch and status.is_at_work):
            return
        time.sleep(WATCH_S)


def main() -> int:
    """Turn what went wrong into one line and an exit status."""
    try:
        show()
    except GalaxrayError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except (KeyboardInterrupt, BrokenPipeError):
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
