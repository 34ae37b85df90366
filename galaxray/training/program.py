"""How the training programs are started: flags in, one clear line for a mistake."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, CliApp

from galaxray.errors import GalaxrayError, RunError, UsageError
from galaxray.settings import AnySettings, read_settings_of

__all__ = ["lists_joined", "run_program", "run_training"]


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


def run_training(
    model: type[AnySettings],
    run: Callable[[AnySettings], None],
    arguments: Sequence[str] | None = None,
    *,
    program: str,
) -> int:
    """Read flags and the recipe, and train; the exit status.

    Parameters
    ----------
    model : type of ProgramSettings
        Its fields are the flags.
    run : callable
    arguments : sequence of str, optional
        The command line without the program; ``sys.argv`` if left out.
    program : str
        Its name, for ``--help``.
    """
    words = lists_joined(sys.argv[1:] if arguments is None else arguments, model)
    try:
        run(read_settings_of(model, words, program=program))
        return 0
    except GalaxrayError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted: the last checkpoint is kept; the same command goes on from there", file=sys.stderr)
        return RunError.exit_status


def lists_joined(arguments: Sequence[str], model: type[BaseModel]) -> list[str]:
    """Let several values of one flag be given as shells like it: ``--targets P_EL P_CW`` for ``--targets P_EL,P_CW``.

    Parameters
    ----------
    arguments : sequence of str
        The command line without the program.
    model : type of BaseModel
        Only its fields of type tuple take more than one value.
    """
    lists = {f"--{name}" for name, field in model.model_fields.items() if "tuple" in str(field.annotation)}
    joined: list[str] = []
    flag = ""
    for word in arguments:
        if word.startswith("--"):
            flag = word.partition("=")[0].replace("-", "_").replace("__", "--", 1)
        elif flag in lists and not joined[-1].startswith("--"):
            joined[-1] += f",{word}"
            continue
        joined.append(word)
    return joined
