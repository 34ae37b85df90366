"""Images of galaxies from survey services and files, fetched politely and many at a time."""

from __future__ import annotations

from galaxray.cutouts.answers import FetchStats
from galaxray.cutouts.checks import check_cutouts
from galaxray.cutouts.estimate import Estimate, estimate, longest_fetch_s
from galaxray.cutouts.fetcher import Fetcher
from galaxray.cutouts.governor import Governor, make_governor
from galaxray.cutouts.grants import Grant, Report, Snapshot
from galaxray.cutouts.limiter import GovernedLimiter, local_limiter
from galaxray.cutouts.limits import Limiter, ServiceDownError, Verdict
from galaxray.cutouts.sources import CutoutSource, make_source

__all__ = [
    "CutoutSource",
    "Estimate",
    "FetchStats",
    "Fetcher",
    "GovernedLimiter",
    "Governor",
    "Grant",
    "Limiter",
    "Report",
    "ServiceDownError",
    "Snapshot",
    "Verdict",
    "check_cutouts",
    "estimate",
    "local_limiter",
    "longest_fetch_s",
    "make_governor",
    "make_source",
]
