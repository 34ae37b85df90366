"""How the training programs are started: flags in, one clear line for a mistake."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliApp

from galaxray.errors import GalaxrayError, UsageError

__all__ = ["run_program"]


def run_program(settings: type[BaseSettings], arguments: Sequence[str] | None = None) -> None:
    """Read flags and run ``settings.cli_cmd``.

    Parameters
    ----------
    settings : type of BaseSettings
        Its fields are the flags.
    arguments : sequence of str, optional
        The command line without the program; ``sys.argv`` if left out.

    Raises
    ------
    SystemExit
        After ``--help``, or with the status of what went wrong: 2 for a mistake in the flags or the data.
    """
    try:
        CliApp.run(settings, cli_args=list(sys.argv[1:] if arguments is None else arguments))
    except ValidationError as error:
        first = error.errors()[0]
        flag = "--" + ".".join(map(str, first["loc"])).replace("_", "-")
        found = "" if first["type"] == "missing" else f" {first['input']!r}"
        print(f"error: {flag}{found}: {first['msg']}", file=sys.stderr)
        sys.exit(UsageError.exit_status)
    except GalaxrayError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
