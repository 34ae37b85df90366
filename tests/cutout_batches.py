"""Batches and configurations for the tests of fetching."""

from __future__ import annotations

from typing import Any

import numpy as np

from galaxray.batches import Batch, text_array
from galaxray.config import CutoutConfig


def make_batch(ra_deg: list[float], **columns: Any) -> Batch:
    """Rows as the catalogue gives them, one per right ascension."""
    count = len(ra_deg)
    return {
        "row_index": np.arange(count),
        "object_id": text_array([f"g{index}" for index in range(count)]),
        "ra_deg": np.array(ra_deg, dtype=np.float64),
        "dec_deg": np.full(count, -1.5),
        "status": text_array(["ok"] * count),
        "error": text_array([None] * count),
        **{name: text_array(value) if isinstance(value, list) else value for name, value in columns.items()},
    }


def quick_config(base_url: str | None = None, **changes: Any) -> CutoutConfig:
    """No rate limit, and waits of milliseconds."""
    settings: dict[str, Any] = {
        "base_url": base_url,
        "size_pixels": 64,
        "requests_per_s": None,
        "timeout_s": 30.0,  # a starved machine must not look like a slow service
        "max_attempts": 3,
        "backoff_s": 0.01,
        "max_backoff_s": 1.0,
    }
    return CutoutConfig(**{**settings, **changes})
