"""Labelled images of the synthetic sky, as the models of a run see them: drawn, compressed, decoded, viewed.

A data set is a folder of plain arrays, read as memory maps, and a ``dataset.json`` that says how to make it again.
"""

from __future__ import annotations

import io
import json
import multiprocessing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from galaxray.errors import ConfigError
from galaxray.images import View, decode
from galaxray.synthetic import Survey, SyntheticGalaxy, catalog, image, volunteer_masks, vote_probabilities, votes

__all__ = ["DatasetConfig", "SkyDataset", "generate", "open_dataset"]

PositiveInt = Annotated[int, Field(gt=0)]
CHUNK = 50  # galaxies that a process takes at a time


class DatasetConfig(BaseModel):
    """Which galaxies of the synthetic sky, and how they are looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    num: PositiveInt = 40_000
    """Number of galaxies."""
    seed: Annotated[int, Field(ge=0, lt=64)] = 1
    """Which galaxies: catalogues of different seeds share none."""
    view_size: PositiveInt = 128
    """Pixels on a side that the models see."""
    volunteers: PositiveInt = 40
    """Volunteers who answer the questions and draw marks."""
    zoom_jitter: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Cutouts are wider or narrower than recommended by up to this fraction."""
    survey_jitter: Annotated[float, Field(ge=0)] = 0.2
    """Scatter of ln(seeing) and ln(noise), and a third of it of colours in magnitudes, in half of the images."""
    min_pixels: PositiveInt = 128
    """Smallest cutout before the view shrinks or enlarges it."""
    max_pixels: PositiveInt = 224
    """Largest cutout."""
    min_quality: PositiveInt = 80
    """Lowest JPEG quality."""
    max_quality: PositiveInt = 95
    """Highest JPEG quality."""


@dataclass(frozen=True)
class SkyDataset:
    """Labelled images, row by row."""

    config: DatasetConfig
    images: npt.NDArray[np.uint8]
    """(N, S, S, 3)."""
    masks: npt.NDArray[np.uint8]
    """(N, 2, S, S): spiral arms and bar, 255 = every volunteer."""
    votes: npt.NDArray[np.uint8]
    """(N, A): counts of answers, in the order of the tree ``gz_decals_5``."""
    probabilities: npt.NDArray[np.float32]
    """(N, A): what the volunteers' answers were drawn from."""
    marked: npt.NDArray[np.bool_]
    """(N, 2): whether half of the volunteers agree on a pixel of the mask."""

    def __len__(self) -> int:
        """Count the galaxies."""
        return len(self.images)


def open_dataset(folder: Path | str) -> SkyDataset:
    """Open a data set as memory maps.

    Raises
    ------
    ConfigError
        If the folder holds no finished data set.
    """
    path = Path(folder)
    if not (path / "dataset.json").is_file():
        raise ConfigError(f"{path} holds no data set: make it with python training/make_dataset.py --output {path}")
    config = DatasetConfig(**json.loads((path / "dataset.json").read_text(encoding="utf-8")))
    arrays: dict[str, Any] = {name: np.load(path / f"{name}.npy", mmap_mode="r") for name in _shapes(config)}
    marked = np.asarray(arrays["masks"].reshape(config.num, 2, -1).max(axis=2) >= 128)
    return SkyDataset(config, marked=marked, **arrays)


def generate(
    config: DatasetConfig, folder: Path | str, processes: int = 1, report: Callable[[int, int], None] | None = None
) -> SkyDataset:
    """Draw a data set; one that is there already, made with the same config, is only opened.

    Parameters
    ----------
    config : DatasetConfig
    folder : path
        Made if needed.
    processes : int
        How many draw at the same time; the result does not depend on it.
    report : callable, optional
        Called with (done, all) after every few galaxies.

    Raises
    ------
    ConfigError
        If the folder holds a data set made with another config.
    """
    path = Path(folder)
    description = path / "dataset.json"
    if description.is_file():
        if DatasetConfig(**json.loads(description.read_text(encoding="utf-8"))) != config:
            raise ConfigError(f"{path} holds a data set made with another config (dataset.json): choose another folder")
        return open_dataset(path)
    path.mkdir(parents=True, exist_ok=True)
    for name, (shape, dtype) in _shapes(config).items():
        np.lib.format.open_memmap(path / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
    starts = range(0, config.num, CHUNK)
    draw = partial(_draw_chunk, config, path)
    if processes == 1:
        _count(map(draw, starts), config.num, report)
    else:
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            _count(pool.imap_unordered(draw, starts), config.num, report)
    description.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return open_dataset(path)


def _count(chunks: Any, num: int, report: Callable[[int, int], None] | None) -> None:
    done = 0
    for size in chunks:
        done += size
        if report:
            report(done, num)


def _shapes(config: DatasetConfig) -> Mapping[str, tuple[tuple[int, ...], type]]:
    num, size = config.num, config.view_size
    return {
        "images": ((num, size, size, 3), np.uint8),
        "masks": ((num, 2, size, size), np.uint8),
        "votes": ((num, 34), np.uint8),
        "probabilities": ((num, 34), np.float32),
    }


def _draw_chunk(config: DatasetConfig, path: Path, start: int) -> int:
    galaxies = _catalog(config.num, config.seed)[start : start + CHUNK]
    arrays = {name: np.load(path / f"{name}.npy", mmap_mode="r+") for name in _shapes(config)}
    view = View(size=config.view_size)
    for row, galaxy in enumerate(galaxies, start):
        rng = np.random.default_rng((config.seed, row))
        fov_arcsec = galaxy.size_arcsec * (1 + config.zoom_jitter * rng.uniform(-1, 1))
        survey = _survey(config.survey_jitter, rng)
        arrays["images"][row] = view.apply(decode(_jpeg(galaxy, fov_arcsec, survey, config, rng)))
        masks = volunteer_masks(galaxy, config.view_size, fov_arcsec / config.view_size, survey=survey)
        arrays["masks"][row] = np.round(255 * np.stack(masks))
        arrays["votes"][row] = votes(galaxy, config.volunteers, survey)
        arrays["probabilities"][row] = vote_probabilities(galaxy, survey)
    return len(galaxies)


_CATALOGS: dict[tuple[int, int], list[SyntheticGalaxy]] = {}


def _catalog(num: int, seed: int) -> list[SyntheticGalaxy]:
    # once per process: it takes seconds
    if (num, seed) not in _CATALOGS:
        _CATALOGS[num, seed] = catalog(num, seed)
    return _CATALOGS[num, seed]


def _survey(jitter: float, rng: np.random.Generator) -> Survey:
    """Draw the reference survey, or as often one that is a little worse or better."""
    survey = Survey()
    if rng.random() < 0.5:
        return survey
    seeing, noise = np.exp(jitter * rng.normal(size=2))
    return Survey(
        psf_fwhm_arcsec=_triple(seeing * np.array(survey.psf_fwhm_arcsec)),
        sky_noise=_triple(noise * np.array(survey.sky_noise)),
        zero_point_offset_mag=_triple(jitter / 3 * rng.normal(size=3)),
    )


def _jpeg(
    galaxy: SyntheticGalaxy, fov_arcsec: float, survey: Survey, config: DatasetConfig, rng: np.random.Generator
) -> bytes:
    """Make the file that a cutout service would send."""
    pixels = int(rng.integers(config.min_pixels, config.max_pixels + 1))
    quality = int(rng.integers(config.min_quality, config.max_quality + 1))
    picture = image(galaxy.ra_deg, galaxy.dec_deg, pixels, fov_arcsec / pixels, survey=survey)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def _triple(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    first, second, third = map(float, values)
    return first, second, third
