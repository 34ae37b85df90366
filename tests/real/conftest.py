"""Real data lie beside the repository; where they are absent, these tests are skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("GALAXRAY_REAL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")).resolve()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the real data."""
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA} (set GALAXRAY_REAL_DATA)")
    return DATA
