"""Every exception that galaxray raises on purpose.

::

    GalaxrayError                 anything below; str() is one line for the user
    ├── UsageError                bad input or configuration: exit status 2
    │   ├── ConfigError           a flag, a key or a recipe
    │   ├── CatalogError          a catalogue that cannot be read
    │   ├── WeightsError          a model file that is missing, damaged or not trusted
    │   ├── PlanError             a run that cannot fit on this cluster
    │   ├── RunMismatchError      a run folder made with another config or catalogue
    │   └── RunBusyError          a run folder that another program works on
    ├── RunError                  a run that could not finish: exit status 1
    └── RowError                  one galaxy failed: becomes its status, never ends a run

A message says what is wrong, where, and how to mend it.
"""

from __future__ import annotations

from galaxray.display import one_line
from galaxray.schema import Status

__all__ = [
    "CatalogError",
    "ConfigError",
    "GalaxrayError",
    "PlanError",
    "RowError",
    "RunBusyError",
    "RunError",
    "RunMismatchError",
    "UsageError",
    "WeightsError",
]


class GalaxrayError(Exception):
    """Base of every exception of galaxray.

    ``str()`` is one printable line: file names, columns and a server's words are in it, and hostile ones must neither
    command a terminal nor spill a password.
    """

    exit_status = 1

    def __str__(self) -> str:
        return one_line(super().__str__())


class UsageError(GalaxrayError):
    """What the user gave cannot be used."""

    exit_status = 2


class ConfigError(UsageError):
    """A flag, a configuration key or a recipe is wrong."""


class CatalogError(UsageError):
    """A catalogue cannot be read: file, column or row are named in the message."""


class WeightsError(UsageError):
    """A model file is missing, damaged, of an unknown kind, or not trusted."""


class PlanError(UsageError):
    """The run cannot fit on this cluster."""


class RunMismatchError(UsageError):
    """The run folder was made with another configuration or catalogue."""


class RunBusyError(UsageError):
    """Another program works on the run folder."""


class RunError(GalaxrayError):
    """The run could not be finished."""


class RowError(GalaxrayError):
    """One row failed.

    Parameters
    ----------
    status : Status
        The status that the row gets; never ``Status.OK``.
    message : str
        The reason, for the ``error`` column.
    """

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status
