"""What the stream tells its program of a work unit whose file is written."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Self

from galaxray.runs import Committed, UnitRecord

__all__ = ["UnitReport"]


@dataclass(frozen=True, kw_only=True)
class UnitReport:
    """A unit that is done."""

    written: Committed
    rows: int
    """Rows that were done: all of the unit, or those that were tried again."""
    seconds: dict[str, float]
    """Busy time by stage."""
    started: float
    """When its models began (Unix time); its first stage, where there are none."""
    fetched: dict[str, Any]
    """What its fetcher did meanwhile: ``answers`` by code, ``bytes``, ``retries``."""

    def to_json(self) -> str:
        """Text to travel in."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Inverse of :meth:`to_json`."""
        content = json.loads(text)
        record, size, before = (content["written"][name] for name in ("record", "size", "before"))
        written = Committed(
            record=UnitRecord(**record), size=size, before=None if before is None else UnitRecord(**before)
        )
        return cls(**{**content, "written": written})
