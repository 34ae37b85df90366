"""The file of a finished work unit, and what its footer says about it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from galaxray.errors import RunError
from galaxray.schema import TRANSIENT_STATUSES
from galaxray.storage import Folder

__all__ = ["UNIT_NAME", "RecordReader", "UnitRecord", "unit_name"]

UNIT_NAME = re.compile(r"unit-(\d{8,})\.parquet")

FOOTER_BYTES = 64 * 1024
"""What is read of the first file, in the hope that its footer is not longer."""


@dataclass(frozen=True, kw_only=True)
class UnitRecord:
    """What the footer of a unit's file says about it."""

    unit: int
    rows: int
    by_status: dict[str, int]
    errors: dict[str, int]

    @property
    def transient(self) -> int:
        """Rows that another try may mend."""
        return sum(self.by_status.get(status, 0) for status in TRANSIENT_STATUSES)


def unit_name(unit: int) -> str:
    """Name of a unit's file in the run folder."""
    return f"annotations/unit-{unit:08d}.parquet"


class RecordReader:
    """Reads the records of a run's units, in one short request each. Thread-safe.

    Parameters
    ----------
    folder : Folder
    run_id : str
    """

    def __init__(self, folder: Folder, run_id: str) -> None:
        self._folder = folder
        self._run_id = run_id
        self._footer_bytes = FOOTER_BYTES

    def __call__(self, unit: int) -> UnitRecord:
        """Read what the footer of a unit's file says.

        Raises
        ------
        RunError
            If the file is damaged or of another run.
        """
        path = f"{self._folder.root}/{unit_name(unit)}"
        try:
            metadata = self._footer(unit_name(unit)).metadata
            record = UnitRecord(**json.loads(metadata[b"galaxray"]))
            run_id = metadata[b"run_id"].decode()
        except (OSError, ValueError, KeyError, TypeError) as error:  # ArrowInvalid is a ValueError
            reason = (str(error).splitlines() or [""])[0]
            raise RunError(
                f"{path} cannot be read ({type(error).__name__}: {reason}): if it is damaged, delete it and run again"
            ) from error
        if (run_id, record.unit) != (self._run_id, unit):
            raise RunError(
                f"{path} is unit {record.unit} of run {run_id}, not of this run, {self._run_id}: "
                "delete it and run again"
            )
        return record

    def _footer(self, name: str) -> pq.FileMetaData:
        end = self._folder.tail(name, self._footer_bytes)
        length = int.from_bytes(end[-8:-4], "little") + 8  # the footer, its length and a mark end the file
        if length > len(end):
            end = self._folder.tail(name, length)
        footer = pq.read_metadata(pa.BufferReader(end))
        # The footers of a run are much alike: from now on hardly more is read than they hold.
        self._footer_bytes = length + length // 8
        return footer
