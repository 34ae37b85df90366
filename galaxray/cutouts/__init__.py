"""Images of galaxies from survey services and files, fetched politely and many at a time."""

from __future__ import annotations

from galaxray.cutouts.answers import FetchStats
from galaxray.cutouts.checks import check_cutouts
from galaxray.cutouts.estimate import Estimate, estimate, longest_fetch_s
from galaxray.cutouts.fetcher import Fetcher
from galaxray.cutouts.limits import Limiter, LocalLimiter, ServiceDownError, Verdict
from galaxray.cutouts.sources import CutoutSource, make_source

__all__ = [
    "CutoutSource",
    "Estimate",
    "FetchStats",
    "Fetcher",
    "Limiter",
    "LocalLimiter",
    "ServiceDownError",
    "Verdict",
    "check_cutouts",
    "estimate",
    "longest_fetch_s",
    "make_source",
]
