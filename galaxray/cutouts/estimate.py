"""What fetching a catalogue will cost, before it begins."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from galaxray.config import CutoutConfig
from galaxray.cutouts.limits import MAX_RETRY_AFTER_S
from galaxray.cutouts.pace import LEAST_RATE
from galaxray.cutouts.sources import make_source

__all__ = ["Estimate", "estimate", "longest_fetch_s"]

JPEG_BYTES_PER_PIXEL = 0.3  # 256 px colour JPEGs of the Legacy Surveys: 13 to 20 KB
FITS_HEADER_BYTES = 2 * 2880
LONG_S = 12 * 3600


@dataclass(frozen=True)
class Estimate:
    """What fetching will cost."""

    requests: int
    """Requests to the service; 0 for files."""
    bytes: int | None
    """Bytes to download, about; None for files, whose sizes are not known."""
    seconds: float | None
    """Least time at the configured rate, in seconds; None without a rate."""
    sentence: str
    """The estimate in words, and what would be faster."""


def estimate(config: CutoutConfig, num_rows: int) -> Estimate:
    """Estimate requests, bytes and time of fetching the cutouts of a catalogue.

    Parameters
    ----------
    config : CutoutConfig
    num_rows : int
        Rows of the catalogue that need an image.

    Raises
    ------
    ConfigError
        If the source cannot give what is asked for.
    """
    base_url = make_source(config).base_url
    if base_url is None:
        return Estimate(0, None, None, f"{num_rows:,} files are read, no service is asked")
    num_bytes = round(num_rows * _bytes_of_one(config))
    what = (
        f"{num_rows:,} requests to {urlsplit(base_url).netloc} for cutouts of {config.size_pixels} x "
        f"{config.size_pixels} pixels, about {_size(num_bytes)}"
    )
    if config.requests_per_s is None:
        return Estimate(num_rows, num_bytes, None, f"{what}, as fast as {config.max_in_flight} at a time are answered")
    seconds = num_rows / config.requests_per_s
    sentence = f"{what}; at {config.requests_per_s:g} requests/s {_duration(seconds)} at least"
    if seconds > LONG_S:
        sentence += (
            ". Faster: images that you have or cut yourself from the survey's coadded bricks, on disk or S3 "
            "(--cutouts.source files), or a mirror of the service (--cutouts.base_url). Ask a public service before "
            "you raise --cutouts.requests_per_s, and give it your address (--cutouts.contact)"
        )
    return Estimate(num_rows, num_bytes, seconds, sentence)


def longest_fetch_s(config: CutoutConfig, num_rows: int, num_fetchers: int = 1) -> float:
    """Longest time that fetching so many rows may take at a bad service, in seconds; 0 for files.

    Every row needs all its tries, every try its time-out, one row waits before each for as long as it may, and the
    service has brought the rate down as far as it falls.

    Parameters
    ----------
    config : CutoutConfig
    num_rows : int
        Rows that one fetcher brings.
    num_fetchers : int
        Fetchers that share the limits.
    """
    if config.source == "files":
        return 0.0
    rate = LEAST_RATE if config.requests_per_s is None else min(LEAST_RATE, config.requests_per_s)
    interval_s = max(config.timeout_s / config.max_in_flight, 1 / rate)
    longest_wait_s = max(config.max_backoff_s, MAX_RETRY_AFTER_S)
    return config.max_attempts * (num_fetchers * num_rows * interval_s + config.timeout_s + longest_wait_s)


def _bytes_of_one(config: CutoutConfig) -> float:
    if config.format == "jpg":
        return config.size_pixels**2 * JPEG_BYTES_PER_PIXEL
    return config.size_pixels**2 * 4 * len(config.bands) + FITS_HEADER_BYTES


def _size(num_bytes: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.3g} TB"


def _duration(seconds: float) -> str:
    for unit, length_s in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.3g} {unit}"
    return f"{seconds:.3g} seconds"
