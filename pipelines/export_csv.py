"""Write a run's table into one CSV file: ``python pipelines/export_csv.py out table.csv --status ok``."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # only the library is installed, not the programs

from galaxray.errors import ConfigError, GalaxrayError, RunError
from galaxray.export import export_csv
from galaxray.storage_errors import storage_errors


class Parser(ArgumentParser):
    """Explains a wrong flag in one line, as the other programs do."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help shows all flags")


def export(arguments: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = Parser(
        description="Write the rows of a run that are done into one CSV file, in the order of the catalogue. A text "
        "that a spreadsheet would take for a formula gets an apostrophe in front."
    )
    parser.add_argument("output", metavar="FOLDER", help="run folder: a path or s3://")
    parser.add_argument("table", metavar="FILE", help="table.csv or table.csv.gz")
    parser.add_argument(
        "--columns",
        metavar="NAME[,NAME...]",
        help="only these; left out, all but vectors, masks and images (named, a vector becomes a column per number, a "
        "mask or an image base64)",
    )
    parser.add_argument("--status", metavar="STATUS[,STATUS...]", help="only rows with one of these, e.g. ok")
    flags = parser.parse_args(arguments)
    columns, statuses = (given.split(",") if given is not None else None for given in (flags.columns, flags.status))
    with storage_errors(flags.output):
        rows, run = export_csv(flags.output, flags.table, columns=columns, statuses=statuses)
    print(f"{rows:,} rows: {flags.table}", file=sys.stderr)
    if (done := run.rows_in(run.done())) < run.num_rows:
        print(f"the run is not finished: {done:,} of {run.num_rows:,} rows are done", file=sys.stderr)


def main() -> int:
    """Turn what went wrong into one line and an exit status."""
    try:
        export()
    except GalaxrayError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted: nothing is written", file=sys.stderr)
        return RunError.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
