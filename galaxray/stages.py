"""What happens to galaxies, stage by stage: Fetch, Decode, Classify, Embed, Segment.

A stage takes a batch and gives a new one with the same rows in the same order. It is total: a row that fails gets a
status and a reason and goes on to the end, and no row can end a run. Stages know nothing of Ray, so that each can be
used, and tested, by itself::

    batch = Decode([classifier.view])(Fetch(config.cutouts)(batch))
    batch = Classify(classifier)(batch)
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from galaxray import images, morphometry, posterior
from galaxray.batches import Batch, num_rows, text_array
from galaxray.config import CutoutConfig, SegmenterConfig
from galaxray.cutouts import Fetcher, Limiter
from galaxray.display import one_line
from galaxray.errors import RowError
from galaxray.images import View
from galaxray.schema import Status
from galaxray.votes import VoteShares

if TYPE_CHECKING:
    from galaxray.models import Classifier, Embedder, Segmenter

__all__ = ["Classify", "Decode", "Embed", "Fetch", "Segment", "Stage"]

Stage = Callable[[Batch], Batch]

THUMBNAIL_SIZE = 224
"""Width of the pictures kept for the report."""


class Fetch:
    """Get the bytes of each galaxy's image.

    Thread-safe: several batches may be fetched at once and share the limits.

    Parameters
    ----------
    config : CutoutConfig
    limiter : Limiter, optional
        What keeps the limits, where others share them.
    """

    def __init__(self, config: CutoutConfig, *, limiter: Limiter | None = None) -> None:
        self.fetcher = Fetcher(config, limiter=limiter)

    def __call__(self, batch: Batch) -> Batch:
        """Add ``image_bytes``, ``image_url``, ``image_sha256``, ``pixel_scale_arcsec``, and to ``attempts``."""
        fetched = self.fetcher.fetch(batch)
        if "attempts" in batch:  # of an earlier run, whose failed rows are tried again
            fetched["attempts"] = fetched["attempts"] + batch["attempts"]
        return fetched


class Decode:
    """Decode each image once and give every model its view of it.

    Parameters
    ----------
    views : sequence of View
        Views that the models want.
    max_pixels : int
        Largest image that is decoded.
    thumbnail_every : int
        Keep a picture of every n-th row for the report; 0 keeps none.
    keep : bool
        Keep the bytes as they came, in the column ``image``.
    num_threads : int
        Images decoded at once.
    """

    def __init__(
        self,
        views: Sequence[View],
        *,
        max_pixels: int = 64_000_000,
        thumbnail_every: int = 0,
        keep: bool = False,
        num_threads: int = 1,
    ) -> None:
        self.views = list(dict.fromkeys(views))
        self.max_pixels = max_pixels
        self.thumbnail_every = thumbnail_every
        self.keep = keep
        self.threads = ThreadPoolExecutor(num_threads)

    def __call__(self, batch: Batch) -> Batch:
        """Replace ``image_bytes`` by the views (uint8, (N, size, size, 3), zero where not ok), and add the size.

        Also adds ``thumbnail``, JPEG bytes or None, and ``image``, the bytes as they came, where these are kept.
        """
        count = num_rows(batch)
        status, error = batch["status"].copy(), batch["error"].copy()
        width, height = np.zeros(count, np.int32), np.zeros(count, np.int32)
        thumbnail = text_array([None] * count)
        pixels = {view.key: np.zeros((count, view.size, view.size, 3), np.uint8) for view in self.views}

        def decode(row: int) -> None:
            try:
                image = images.decode(batch["image_bytes"][row], max_pixels=self.max_pixels)
                height[row], width[row] = image.shape[:2]
                for view, seen in [(view, view.apply(image)) for view in self.views]:
                    pixels[view.key][row] = seen
                if self.thumbnail_every and batch["row_index"][row] % self.thumbnail_every == 0:
                    thumbnail[row] = _thumbnail(image)
            except RowError as failure:
                status[row], error[row] = failure.status.value, str(failure)
            except Exception as failure:  # MemoryError among them: one strange file must not end the run
                status[row], error[row] = Status.CORRUPT.value, _reason(failure)

        list(self.threads.map(decode, np.flatnonzero(status == Status.OK)))
        result = {name: values for name, values in batch.items() if name != "image_bytes"}
        result |= {"status": status, "error": error, "image_width": width, "image_height": height, **pixels}
        if "size_arcsec" in batch:  # files whose width was not known before
            scale = batch["pixel_scale_arcsec"]
            unknown = np.isnan(scale) & (width > 0)
            result["pixel_scale_arcsec"] = np.where(unknown, batch["size_arcsec"] / np.maximum(width, 1), scale)
        if self.thumbnail_every:
            result["thumbnail"] = thumbnail
        if self.keep:
            result["image"] = batch["image_bytes"]
        return result


class Classify:
    """Vote fractions with intervals, class probabilities, or regression targets."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    def __call__(self, batch: Batch) -> Batch:
        """Add the columns of the classifier's task."""
        return _predict(batch, self._predict)

    def _predict(self, batch: Batch) -> Batch:
        model = self.classifier
        raw = model.predict(batch[model.view.key], batch["row_index"])
        _require_finite(raw)
        if model.tree is not None:
            return posterior.columns(raw, model.tree)
        values = raw.mean(axis=2)
        if model.task == "regression":
            return {name: values[:, i] for i, name in enumerate(model.labels)}
        best = values.argmax(axis=1)
        return {
            "label": text_array([model.labels[i] for i in best]),
            "confidence": values[np.arange(len(best)), best],
            **{f"{name}_probability": values[:, i] for i, name in enumerate(model.labels)},
        }


class Embed:
    """Coordinates in the latent space of the autoencoder."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    def __call__(self, batch: Batch) -> Batch:
        """Add ``embedding``, float32 (N, d), and ``reconstruction_error``."""
        return _predict(batch, self._predict)

    def _predict(self, batch: Batch) -> Batch:
        embedding, error = self.embedder.embed(batch[self.embedder.view.key])
        _require_finite(embedding, error)
        return {"embedding": embedding, "reconstruction_error": error}


class Segment:
    """Masks of spiral arms and bars, and what is measured from them.

    Parameters
    ----------
    segmenter : Segmenter
    config : SegmenterConfig
        Says which galaxies are segmented; by default those that the vote fractions in the batch call featured disks
        that are not edge-on (of several campaigns, the first in the tree decides). Where the batch has no such
        fractions, all are.
    """

    def __init__(self, segmenter: Segmenter, config: SegmenterConfig) -> None:
        self.segmenter = segmenter
        self.config = config

    def __call__(self, batch: Batch) -> Batch:
        """Add the masks (PNG bytes) and measurements, null where the galaxy was not asked for."""
        return _predict(batch, self._predict, where=self._asked(batch))

    def _asked(self, batch: Batch) -> np.ndarray:
        """Rows that are to be segmented, bool (N,)."""
        asked: np.ndarray = batch["status"] == Status.OK
        if self.config.where == "face-on-featured":
            share = VoteShares(batch)
            for fraction in (
                share("smooth-or-featured", "featured-or-disk", "features"),
                share("disk-edge-on", "no"),
            ):
                if fraction is not None:
                    asked = asked & (fraction >= self.config.min_fraction)
        return asked

    def _predict(self, batch: Batch) -> Batch:
        view = self.segmenter.view
        masks = self.segmenter.segment(batch[view.key])
        # The view shows the central 1/zoom of the shorter side of the cutout.
        field = np.minimum(batch["image_width"], batch["image_height"]) / view.zoom
        scale = batch["pixel_scale_arcsec"] * field / view.size
        spiral, bar = masks[:, 0], masks[:, 1]
        bars = [morphometry.bar_length_and_angle(mask, scale[row]) for row, mask in enumerate(bar)]
        return {
            "spiral_mask": text_array([_png(mask) for mask in spiral]),
            "bar_mask": text_array([_png(mask) for mask in bar]),
            "spiral_fraction": np.array([morphometry.marked_fraction(mask) for mask in spiral], np.float32),
            "bar_fraction": np.array([morphometry.marked_fraction(mask) for mask in bar], np.float32),
            "bar_length_arcsec": np.array([length for length, _ in bars], np.float32),
            "bar_angle_deg": np.array([angle for _, angle in bars], np.float32),
        }


def _predict(batch: Batch, model: Callable[[Batch], Batch], where: np.ndarray | None = None) -> Batch:
    """Run a model on the rows that are ok (and ``where``) and spread its columns over all rows.

    Where the model fails on the batch, the rows are tried one by one, so that one galaxy's failure
    (``model_error``) is not that of its neighbours, and the run goes on.
    """
    rows = np.flatnonzero(batch["status"] == Status.OK if where is None else where)
    try:
        columns = model(_take(batch, rows))
    except Exception:
        return _predict_singly(batch, model, rows)
    return {**batch, **{name: _spread(values, rows, num_rows(batch)) for name, values in columns.items()}}


def _predict_singly(batch: Batch, model: Callable[[Batch], Batch], rows: np.ndarray) -> Batch:
    status, error = batch["status"].copy(), batch["error"].copy()
    no_rows = np.array([], dtype=int)
    # The columns of no galaxy at all: every file of a run has the same columns, even if each galaxy in it failed.
    columns = {name: _spread(values, no_rows, num_rows(batch)) for name, values in model(_take(batch, no_rows)).items()}
    for row in rows:
        try:
            for name, value in model(_take(batch, np.array([row]))).items():
                columns[name][row] = value[0]
        except Exception as failure:  # whatever a model raises must not end the run
            status[row], error[row] = Status.MODEL_ERROR.value, _reason(failure)
    return {**batch, **columns, "status": status, "error": error}


def _require_finite(*outputs: np.ndarray) -> None:
    if not all(np.isfinite(values).all() for values in outputs):
        raise FloatingPointError("the model's outputs are not finite")


def _reason(failure: Exception) -> str:
    return one_line(f"{type(failure).__name__}: {failure}")[:200]


def _take(batch: Batch, rows: np.ndarray) -> Batch:
    return batch if len(rows) == num_rows(batch) else {name: values[rows] for name, values in batch.items()}


def _spread(values: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    if len(rows) == count:
        return values
    if values.dtype == object:
        spread = text_array([None] * count)
    else:
        spread = np.full((count, *values.shape[1:]), np.nan, values.dtype)
    spread[rows] = values
    return spread


def _thumbnail(image: np.ndarray) -> bytes:
    picture = Image.fromarray(image)
    picture.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def _png(mask: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG", compress_level=1)  # masks are smooth: a higher level gains little
    return file.getvalue()
