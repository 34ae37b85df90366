"""What the tests under fire share: the seed. Those marked ``long`` are left to ``make chaos``."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session")
def chaos_seed() -> int:
    """Seed of what happens at random; ``CHAOS_SEED=7 make chaos`` sets it."""
    return int(os.environ.get("CHAOS_SEED", "1"))


def pytest_report_header() -> str:
    return f"chaos seed: {os.environ.get('CHAOS_SEED', '1')}"
