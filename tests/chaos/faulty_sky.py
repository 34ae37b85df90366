"""A catalogue, and a service whose faults are a function of the position, and of the attempt where they heal."""

from __future__ import annotations

import io
import random
from functools import cache
from pathlib import Path

import numpy as np
from faulty_service import FAULTS, Ask, FaultyService, reply
from PIL import Image

STEP_DEG = 0.01

FATES = {
    "ok": 0.855,
    # They heal, after one request or two.
    "code:500": 0.02,
    "cut-length": 0.02,
    "reset": 0.02,
    "hang": 0.001,
    # They do not.
    "code:404": 0.024,
    "code:502": 0.01,
    "cut-source": 0.015,
    "html": 0.015,
    "black": 0.02,
}
"""What happens to rows, and to which share of them. A refusal (429, 503) is no matter of the row but of the rate at
which a service is asked, and slows a whole run down: that is for other tests."""

HEALING = {"code:500": 2, "cut-length": 1, "reset": 2, "hang": 1}
"""Requests after which a fault is over; each is fewer than the tries of a row."""

STATUS = {
    "code:404": "not_covered",
    "code:502": "unreachable",
    "cut-source": "corrupt",
    "html": "corrupt",
    "black": "blank",
}
"""What a fault that does not heal comes to."""


class FaultySky(FaultyService):
    """Cutouts of galaxies that all look different.

    Attributes
    ----------
    fates : list of str
        By row.
    """

    def __init__(self, num_rows: int, seed: int) -> None:
        self.fates = random.Random(seed).choices(list(FATES), list(FATES.values()), k=num_rows)
        super().__init__(self._fate_of)

    def restart(self) -> None:
        """Forget who asked: what heals fails anew."""
        self.asks.clear()
        self._counts.clear()

    def requests(self, since: float = 0.0) -> list[tuple[float, int]]:
        """When (``time.monotonic``) which row was asked for, from a moment on."""
        return [(ask.time, _row(ask)) for ask in list(self.asks) if ask.time >= since]

    def rows(self) -> list[int]:
        """Rows that were asked for so far, as often as they were."""
        return [_row(ask) for ask in list(self.asks)]

    def expected_status(self, row: int) -> str:
        return STATUS.get(self.fates[row], "ok")

    def _fate_of(self, ask: Ask) -> str:
        fate = self.fates[_row(ask)]
        return "galaxy" if fate == "ok" or ask.attempt > HEALING.get(fate, ask.attempt) else fate


def write_catalog(path: Path, num_rows: int) -> Path:
    lines = [f"g{row:05d},{row * STEP_DEG:.4f},{row * 0.002 - 1:.4f}" for row in range(num_rows)]
    path.write_text("\n".join(["object_id,ra,dec", *lines]) + "\n")
    return path


def _row(ask: Ask) -> int:
    return round(float(ask.query["ra"]) / STEP_DEG)


@cache
def _galaxy(row: int, size: int) -> bytes:
    """A tilted exponential disk on noise; no two are alike."""
    rng = np.random.default_rng(row)
    y, x = np.mgrid[:size, :size] - size / 2
    angle, ratio, radius = rng.uniform(0, np.pi), rng.uniform(0.3, 1), rng.uniform(0.06, 0.2) * size
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    disk = rng.uniform(150, 255, 3) * np.exp(-np.hypot(along, across / ratio) / radius)[..., None]
    pixels = np.clip(disk + rng.integers(0, 30, (size, size, 3)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


async def _serve_galaxy(ask: Ask, writer, argument: str) -> bool:
    writer.write(reply(200, _galaxy(_row(ask), ask.size)))
    return True


FAULTS["galaxy"] = _serve_galaxy
