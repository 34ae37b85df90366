"""Fetch the images of a batch of galaxies."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from galaxray.batches import Batch, num_rows, text_array
from galaxray.config import CutoutConfig
from galaxray.cutouts.answers import Answer, FetchStats, Reader
from galaxray.cutouts.cache import CachedReader
from galaxray.cutouts.files import FileReader
from galaxray.cutouts.governor import make_governor
from galaxray.cutouts.http import HttpReader
from galaxray.cutouts.limiter import local_limiter
from galaxray.cutouts.limits import Limiter
from galaxray.cutouts.quality import check_image
from galaxray.cutouts.sources import make_source
from galaxray.errors import ConfigError, GalaxrayError, RowError
from galaxray.schema import Status

__all__ = ["Fetcher"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

SURVEY_PIXEL_SCALE_ARCSEC = 0.262
"""What a service is asked for where nobody says: the pixel scale of the Legacy Surveys."""
ROW_COLUMNS = ("row_index", "object_id", "ra_deg", "dec_deg", "path")
"""What a source may look at to find the image of a row."""


class Fetcher:
    """Fetch the images of batches of galaxies, many at a time.

    An event loop in a thread of its own does the work; `fetch` may be called from any number of threads at once, and
    all their requests share the limits. Close it, or use it in a ``with`` statement.

    Parameters
    ----------
    config : CutoutConfig
    limiter : Limiter, optional
        What keeps the limits, where that is not the fetcher's own affair: for example one that a whole cluster shares.

    Raises
    ------
    ConfigError
        If the source cannot give what is asked for.
    """

    def __init__(self, config: CutoutConfig, *, limiter: Limiter | None = None) -> None:
        self._config = config
        self._source = make_source(config)
        self._stats = FetchStats()
        self._limiter = limiter or local_limiter(make_governor(config))
        self._loop = _new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="galaxray-fetch", daemon=True)
        self._thread.start()
        self._closed = False
        try:
            self._run(self._open())
        except BaseException:
            self.close()
            raise

    def fetch(self, batch: Batch) -> Batch:
        """Fetch the images of one batch.

        Parameters
        ----------
        batch : dict of str to array
            Columns ``row_index``, ``object_id``, ``ra_deg``, ``dec_deg``, ``status``, ``error`` and, where the
            catalogue has them, ``path``, ``pixel_scale_arcsec`` and ``size_arcsec`` (NaN or not positive = the
            configured one). Only rows with status ``ok`` are fetched. Not changed.

        Returns
        -------
        dict of str to array
            All columns, with ``image_bytes`` (bytes or None), ``image_url`` and ``image_sha256`` (str or None),
            ``attempts`` (int16), ``pixel_scale_arcsec`` (float64, as asked for; of a file NaN where it is not known),
            ``status`` and ``error``. For files also ``size_arcsec``, NaN where the scale was given: with the width that
            decoding tells it makes the scale of files whose header is not read here.

        Raises
        ------
        ConfigError
            If the source needs a column that the batch has not. A row never raises: its status tells.
        """
        if missing := self._source.required_columns - batch.keys():
            raise ConfigError(
                f"cutouts.source {self._config.source} needs the column {', '.join(sorted(missing))} in the catalogue"
                + (", or --cutouts.path_template" if "path" in missing else "")
            )
        scale, width_arcsec = self._scales(batch)
        rows = [index for index, status in enumerate(batch["status"]) if status == Status.OK]
        places = self._locate(batch, rows, scale)
        answers = self._run(self._read_all(places))

        status, error = batch["status"].tolist(), batch["error"].tolist()
        attempts = np.zeros(len(status), dtype=np.int16)
        bodies: list[bytes | None] = [None] * len(status)
        urls: list[str | None] = [None] * len(status)
        digests: list[str | None] = [None] * len(status)
        for index, place, answer in zip(rows, places, answers, strict=True):
            status[index], error[index] = answer.status.value, answer.error
            attempts[index] = answer.attempts
            urls[index] = place if isinstance(place, str) else None
            bodies[index] = answer.body
            if answer.body is not None:  # hashed here and not in the event loop, where other requests go on meanwhile
                digests[index] = hashlib.sha256(answer.body).hexdigest()
            if answer.width is not None and not np.isnan(width_arcsec[index]):
                scale[index] = width_arcsec[index] / answer.width
        result = {
            **batch,
            "status": text_array(status),
            "error": text_array(error),
            "attempts": attempts,
            "image_bytes": text_array(bodies),
            "image_url": text_array(urls),
            "image_sha256": text_array(digests),
            "pixel_scale_arcsec": scale,
        }
        return result if self._source.base_url else {**result, "size_arcsec": width_arcsec}

    def stats(self) -> FetchStats:
        """Count what this fetcher has done so far."""
        return dataclasses.replace(self._stats, answers=Counter(self._stats.answers), outage=self._limiter.outage)

    def close(self) -> None:
        """Give up what is in flight and end the thread."""
        if self._closed:
            return
        self._run(self._shut_down())
        self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the event loop's thread and wait for it."""
        if self._closed:
            work.close()
            raise GalaxrayError("this fetcher is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise GalaxrayError("this fetcher was closed while it fetched") from None
        except BaseException:  # Ctrl-C reaches the caller, not the event loop
            future.cancel()
            raise

    async def _open(self) -> None:
        config, base_url = self._config, self._source.base_url
        if base_url is None:
            check = partial(check_image, max_pixels=config.max_pixels)
            self._reader: Reader = FileReader(config, check=check, stats=self._stats)
        else:
            check = partial(
                check_image, max_pixels=config.max_pixels, expected=config.format, size_pixels=config.size_pixels
            )
            self._reader = HttpReader(config, base_url, limiter=self._limiter, check=check, stats=self._stats)
        if config.cache is not None:
            self._reader = CachedReader(self._reader, config.cache, check=check, stats=self._stats)

    async def _shut_down(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if hasattr(self, "_reader"):  # not if it could not be opened
            await self._reader.close()
        await self._loop.shutdown_default_executor()

    def _scales(self, batch: Batch) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pixel scale to ask for, and width on the sky where that and not the scale is given; both (N,), in arcsec.

        Files have the scale that they have: NaN until it is known.
        """
        config, missing = self._config, np.full(num_rows(batch), np.nan)
        scale = _positive(batch.get("pixel_scale_arcsec", missing))
        width = _positive(batch.get("size_arcsec", missing))
        if config.fov_arcsec is not None:
            width = np.where(np.isnan(width), config.fov_arcsec, width)
        width = np.where(np.isnan(scale), width, np.nan)
        if self._source.base_url is None:
            default, of_width = np.nan, missing
        else:
            default, of_width = SURVEY_PIXEL_SCALE_ARCSEC, width / config.size_pixels
        of_width = np.where(np.isnan(width), config.pixel_scale_arcsec or default, of_width)
        return np.where(np.isnan(scale), of_width, scale), width

    def _locate(self, batch: Batch, rows: list[int], scale: NDArray[np.float64]) -> list[str | Answer]:
        """Address of each row's image, or the answer of a row that can have none."""
        columns = {name: batch[name].tolist() for name in ROW_COLUMNS if name in batch}
        scales = scale.tolist()
        places: list[str | Answer] = []
        for index in rows:
            row = {name: values[index] for name, values in columns.items()}
            try:
                places.append(self._source.locate(row, scales[index]))
            except RowError as failure:
                places.append(Answer.failed(failure, attempts=0))
            except Exception as error:
                places.append(_internal_error(f"row {row.get('row_index')}", error, attempts=0))
        return places

    async def _read_all(self, places: list[str | Answer]) -> list[Answer]:
        return await asyncio.gather(*map(self._read, places))

    async def _read(self, place: str | Answer) -> Answer:
        if isinstance(place, Answer):
            return place
        try:
            return await self._reader.read(place)
        except Exception as error:
            return _internal_error(place, error, attempts=1)


def _internal_error(what: str, error: Exception, attempts: int) -> Answer:
    """What a bug costs: one row. And it is seen."""
    logger.error("cannot fetch %s", what, exc_info=error)
    failure = RowError(Status.UNREACHABLE, f"internal error: {type(error).__name__}: {error}")
    return Answer.failed(failure, attempts)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """The faster event loop where there is one: it is not made for Windows."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _positive(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values that are a length; NaN for the catalogue's many ways to say that there is none."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(values) & (values > 0), values, np.nan)
