"""Configuration from flags and TOML recipes, with messages that say how to mend a mistake."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
import tomllib
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from galaxray.config import RunConfig
from galaxray.errors import ConfigError
from galaxray.log import LogFormat

__all__ = [
    "AnnotateSettings",
    "AnySettings",
    "ProgramSettings",
    "clean_help",
    "flag_names",
    "read_settings",
    "read_settings_of",
]


class ProgramSettings(BaseSettings):
    """Base of a program's settings: flags over a recipe, and nothing else."""

    if TYPE_CHECKING:  # each program has these, where they belong among its flags
        config: str | None
        log: LogFormat

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        cli_kebab_case=False,
        cli_implicit_flags=True,
        cli_exit_on_error=False,
        cli_avoid_json=True,
        cli_hide_none_type=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags only, over the recipe: an environment variable must not change what a run gives."""
        return (init_settings,)


class AnnotateSettings(RunConfig, ProgramSettings):
    """Annotate every galaxy of a catalogue: votes with error bars, embeddings, spiral-arm and bar masks.

    One Parquet row comes out for every catalogue row, in OUTPUT/annotations; a galaxy that has no good image gets the
    reason instead of predictions. Killed, and run again with the same command, it goes on where it was.

    For example:
      annotate_catalog.py --catalog galaxies.fits --output out
      annotate_catalog.py --catalog galaxies.csv --output out --dry-run
      annotate_catalog.py --config configs/laptop.toml --catalog s3://bucket/cat.parquet --output s3://bucket/run1
      annotate_catalog.py --catalog list.csv --output out --cutouts.source files

    Dashes and underscores mean the same in a flag. A flag with several values takes them separated by commas, or is
    given several times.

    Exit status: 0 done; 3 done, but a larger share of the rows failed than --max-failed-fraction (by default any share
    may fail); 2 bad input or settings; 1 any other failure.
    """

    config: str | None = Field(None, description="Recipe (TOML) with these same keys; flags win over it.")
    dry_run: bool = Field(False, description="Print the plan (rows, requests, bytes, time, CPUs, GPUs) and stop.")
    log: LogFormat = Field("text", description="What is told on stderr: lines, or JSON objects with the run's id.")
    retry_failed: bool = Field(False, description="Also do again the rows that were throttled or unreachable.")

    model_config = ProgramSettings.model_config

    def run_config(self) -> RunConfig:
        """The part that decides what the run does."""
        return RunConfig.model_validate(self.model_dump(include=set(RunConfig.model_fields)))


AnySettings = TypeVar("AnySettings", bound=ProgramSettings)


def clean_help(model: type[BaseModel]) -> None:
    """Take the indentation out of the docstring that ``--help`` shows: argparse would show it as it stands."""
    model.__doc__ = inspect.cleandoc(model.__doc__ or "")


clean_help(AnnotateSettings)


METAVARS = {
    "catalog": "PATH",
    "output": "FOLDER",
    "images": "FOLDER",
    "config": "FILE",
    "stages": "STAGE[,STAGE...]",
    "labels": "COLUMN[,COLUMN...]",
    "missing": "VALUE[,VALUE...]",
    "cutouts.requests_per_s": "{NUMBER,none}",
}
TYPES = {
    "str": "TEXT",
    "int": "INTEGER",
    "float": "NUMBER",
    "{int,str}": "TEXT",
    "tuple[str,...]": "TEXT[,TEXT...]",
    "tuple[int,...]": "INTEGER[,INTEGER...]",
    "dict[str,str]": "NAME=TEXT",
}


def _add_argument(parser: ArgumentParser, *flags: str, **how: Any) -> Any:
    """Add a flag with a help for people: plain names of types, no markup, no default where there is none."""
    text = how["help"].replace("``", "").replace(" (default: None)", "")
    text = re.sub(r"\(default: \((.*?),?\)\)", lambda match: f"(default: {match[1]})".replace("'", ""), text)
    if "metavar" in how:
        how["metavar"] = METAVARS.get(how["dest"], TYPES.get(how["metavar"], how["metavar"]))
    return parser.add_argument(*flags, **{**how, "help": text})


def read_settings(arguments: Sequence[str] | None = None, *, program: str | None = None) -> AnnotateSettings:
    """Read the settings of ``annotate_catalog.py``; see `read_settings_of`."""
    return read_settings_of(AnnotateSettings, arguments, program=program)


def read_settings_of(
    model: type[AnySettings], arguments: Sequence[str] | None = None, *, program: str | None = None
) -> AnySettings:
    """Read flags, and the recipe that ``--config`` names.

    Parameters
    ----------
    model : type of ProgramSettings
        Its fields are the flags, its docstring what ``--help`` says.
    arguments : sequence of str, optional
        The command line without the program; ``sys.argv`` if left out.
    program : str, optional
        Name shown by ``--help``.

    Raises
    ------
    ConfigError
        One line: the flag or key, what was found, and the nearest name or the choices.
    SystemExit
        After ``--help``.
    """
    arguments = _with_negatives([_spelled(word) for word in (sys.argv[1:] if arguments is None else arguments)])
    try:
        flags = CliSettingsSource[Any](
            model, cli_parse_args=arguments, cli_prog_name=program, add_argument_method=_add_argument
        )()
    except SettingsError as error:
        raise ConfigError(_explain_flags(error, arguments, model)) from error
    values = _merge(_read_recipe(flags["config"]), flags) if flags.get("config") is not None else flags
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain_values(error, model)) from error


def _spelled(word: str) -> str:
    """``--dry-run`` and ``--dry_run``, ``--max-failed-fraction`` and ``--max_failed_fraction``: both are accepted."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    name = "--" + name[2:].replace("-", "_")
    return re.sub("^--no_", "--no-", name) + equals + value  # argparse spells the opposite of a flag so


def _with_negatives(words: Sequence[str]) -> list[str]:
    """``--missing -9999,-99`` as ``--missing=-9999,-99``: argparse would take the value for a flag."""
    joined: list[str] = []
    for word in words:
        if re.match(r"-\d", word) and joined and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _read_recipe(path: str) -> dict[str, Any]:
    if not path:
        raise ConfigError("--config is empty: name a recipe, or leave the flag out")
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"--config {path}: there is no such file") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"--config {path}: no TOML recipe ({error})") from error


def _merge(recipe: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    merged = dict(recipe)
    for key, value in flags.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _explain_flags(error: SettingsError, arguments: Sequence[str], model: type[BaseModel]) -> str:
    text = str(error)
    _, _, unknown = text.partition("unrecognized arguments: ")
    if unknown:
        word = unknown.split()[0]
        if not word.startswith("--"):
            return f"{word!r} belongs to no flag: every value follows its flag, as in --catalog galaxies.fits"
        return f"no flag {word.partition('=')[0]}{_nearest(word.partition('=')[0].lstrip('-'), '--', model)}"
    return text.removeprefix("error parsing CLI: ").strip()


def _explain_values(error: ValidationError, model: type[BaseModel]) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if not isinstance(part, int))
    match first["type"]:
        case "missing":
            return f"--{key} is missing; --help shows all flags"
        case "extra_forbidden":
            return f"no setting {key!r}{_nearest(key, '', model)}"
        case "value_error" if not key:  # of settings that do not go together
            return str(first["ctx"]["error"])
        case _:
            return f"{key} = {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _nearest(name: str, prefix: str, model: type[BaseModel]) -> str:
    names = list(flag_names(model))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    # A forgotten section (--layer for --cutouts.layer) is the commonest slip.
    near = [full for full in names if full.rpartition(".")[2] == name] or near
    return f"; did you mean {prefix}{near[0]}?" if near else "; --help shows all flags"


def flag_names(model: type[BaseModel] = AnnotateSettings, prefix: str = "") -> Iterator[str]:
    """Names of all settings, dotted, without the dashes."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from flag_names(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name
