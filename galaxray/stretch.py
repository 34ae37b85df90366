"""FITS cutouts drawn as colour images, the way the Galaxy Zoo volunteers saw them.

The stretch is the one of the Legacy Survey's DR2 viewer with the scales of Galaxy Zoo DECaLS (Willett, Lang; Walmsley
et al. 2022, MNRAS 509, 3966): each band divided by its scale, arcsinh, and colours pulled towards grey where one band
dominates, so that the sky's noise has no coloured speckles.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from galaxray.errors import RowError
from galaxray.schema import Status

__all__ = ["decode_fits", "grey_stretch", "is_fits", "legacy_survey_rgb"]

SCALES = {"g": (2, 0.008), "r": (1, 0.014), "z": (0, 0.019)}
"""Band: RGB plane, nanomaggies per unit."""
BLACK, WHITE = -0.5, 300.0
"""In units of the band's scale, before the arcsinh."""
MAX_BLANK_FRACTION = 0.2
"""Galaxy Zoo DECaLS left out a galaxy with more blank pixels than this in any band."""
BLOCK = 2880
MAX_HEADER_BYTES = 100 * BLOCK
MAX_EXTENSIONS = 100
MAX_AXES = 999
"""Of an image, as columns of a table, the standard allows so many."""
MAX_TILES = 100_000
MAX_COMPRESSED_PLANES = 16
"""Planes of a tile-compressed cube, where the size of the file bounds nothing."""
GZIP_MAGIC = b"\x1f\x8b"


def is_fits(data: bytes) -> bool:
    """Tell a FITS file (plain or gzipped) by its first bytes."""
    return data.startswith((b"SIMPLE  =", GZIP_MAGIC))


def decode_fits(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """Draw the first image of a FITS file.

    Parameters
    ----------
    data : bytes
        The file, plain, gzipped or tile-compressed: a band-first cube of fluxes (its ``BANDS`` card, or g, r, z if
        there are three planes), one plane, which is drawn in grey, or a colour picture (8 bits).
    max_pixels : int
        Largest image (per band) that is read.

    Returns
    -------
    uint8 (H, W, 3)
        North up: the rows are flipped, unless the header says that row 0 is north.

    Raises
    ------
    RowError
        CORRUPT if the file is truncated or holds no image; BLANK if a band is mostly empty.
    """
    if data.startswith(GZIP_MAGIC):
        data = _gunzip(data, limit=max_pixels * 8 * len(SCALES) + 100 * BLOCK)
    index = _find_image(data, max_pixels)
    _check_tiles(data, index)
    with fits.open(io.BytesIO(data), memmap=False, lazy_load_hdus=True) as hdus:
        header, cube = hdus[index].header, np.asarray(hdus[index].data)  # of a tile-compressed one, as it was before
    image = _draw(cube, header)
    north_down = float(header.get("CD2_2", header.get("CDELT2", 1.0))) < 0
    return np.ascontiguousarray(image if north_down else image[::-1])


def _draw(cube: NDArray[Any], header: fits.Header) -> NDArray[np.uint8]:
    if cube.dtype == np.uint8 and cube.ndim == 3 and 3 in (cube.shape[0], cube.shape[2]):
        return cube if cube.shape[2] == 3 else np.moveaxis(cube, 0, 2)  # a picture already
    planes = cube.reshape(-1, *cube.shape[-2:]).astype(np.float32)
    bands = str(header.get("BANDS", "grz" if len(planes) == len(SCALES) else "")).strip()
    named = {band: plane for band, plane in zip(bands, planes, strict=False) if band in SCALES}
    if named and len(bands) == len(planes):
        for band, plane in named.items():
            _check_coverage(plane, band)
        return legacy_survey_rgb(named)
    if len(planes) == 1:
        _check_coverage(planes[0], str(header.get("FILTER", "")))
        return np.repeat(grey_stretch(planes[0])[..., None], 3, axis=2)
    raise RowError(Status.CORRUPT, f"FITS cube of {len(planes)} planes without a BANDS card naming g, r and z")


def legacy_survey_rgb(bands: Mapping[str, NDArray[np.float32]]) -> NDArray[np.uint8]:
    """Stretch g, r, z fluxes to colours.

    Parameters
    ----------
    bands : mapping
        Band name to flux in nanomaggies per 0.262 arcsec pixel, each (H, W). NaN counts as no flux; a missing band as
        the mean of the others.

    Returns
    -------
    uint8 (H, W, 3)
        Rows as in the input.
    """
    low, high = np.arcsinh(BLACK), np.arcsinh(WHITE)
    planes: dict[int, NDArray[np.float32]] = {}
    for band, flux in bands.items():
        plane, scale = SCALES[band]
        planes[plane] = (np.arcsinh(np.nan_to_num(flux, nan=0.0) / np.float32(scale)) - low) / (high - low)
    grey = np.mean(list(planes.values()), axis=0, dtype=np.float32)
    rgb = np.stack([planes.get(plane, grey) for plane in range(3)], axis=-1)
    mean = rgb.mean(axis=-1, keepdims=True)
    safe = np.where(mean == 0, 1, mean)
    dominance = np.minimum((rgb / safe).max(axis=-1, keepdims=True) / 2.5, 1)
    colour = np.sin((1 - dominance) * (np.pi / 2))
    rgb = rgb * colour + mean * (1 - colour) + safe * (1 - colour) ** 2 * rgb
    drawn: NDArray[np.uint8] = (np.clip(rgb, 0, 1) * 255).astype(np.uint8)
    return drawn


def grey_stretch(flux: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Stretch one band of unknown units, (H, W).

    Arcsinh from the sky's level, in units of its noise, to the 99.7th percentile.
    """
    finite = flux[np.isfinite(flux)]
    if not finite.size:
        raise RowError(Status.BLANK, "no pixel of the image has a value")
    sky, white = np.percentile(finite, [50, 99.7])
    noise = 1.4826 * float(np.median(np.abs(finite - sky))) or float(finite.std()) or 1.0
    low, high = np.arcsinh(-1.0), np.arcsinh(max(float(white - sky) / noise, 1.0))
    scaled = (np.arcsinh(np.nan_to_num((flux - sky) / noise, nan=-1.0)) - low) / (high - low)
    drawn: NDArray[np.uint8] = (np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    return drawn


def _check_coverage(plane: NDArray[np.float32], band: str) -> None:
    blank = float(np.mean(~np.isfinite(plane) | (plane == 0)))
    if blank > MAX_BLANK_FRACTION:
        raise RowError(Status.BLANK, f"band {band or '?'}: {blank:.0%} of the pixels are blank")


def _find_image(data: bytes, max_pixels: int) -> int:
    # Sizes are checked against the headers first: astropy only warns of a truncated file, and would allocate
    # whatever a header asks for.
    offset, index = 0, 0
    while offset < len(data) and index < MAX_EXTENSIONS:
        stream = io.BytesIO(data[offset : offset + MAX_HEADER_BYTES])
        try:
            header = fits.Header.fromfile(stream)
        except (OSError, EOFError, ValueError) as error:
            raise RowError(Status.CORRUPT, f"FITS header cannot be read: {error}") from None
        shape = _shape(header, "NAXIS")
        groups, heap = int(header.get("GCOUNT", 1)), int(header.get("PCOUNT", 0))
        if min([*shape, groups, heap]) < 0:  # would lead back, and round in circles
            raise RowError(Status.CORRUPT, "FITS extension of negative length")
        if not 0 <= int(header.get("TFIELDS", 0)) <= MAX_AXES:  # astropy makes a list of so many
            raise RowError(Status.CORRUPT, f"FITS table of {header['TFIELDS']} columns")
        length = abs(int(header["BITPIX"])) // 8 * groups * (heap + (math.prod(shape) if shape else 0))
        start = offset + stream.tell()
        is_image = header.get("XTENSION", "IMAGE").strip() == "IMAGE"
        if header.get("ZIMAGE", False):  # a table of tiles
            is_image, shape = True, _shape(header, "ZNAXIS")
            if len(shape) > 2 and math.prod(shape[2:]) > MAX_COMPRESSED_PLANES:
                raise RowError(Status.CORRUPT, f"compressed FITS cube of {math.prod(shape[2:])} planes is too large")
        if is_image and len(shape) >= 2:
            if shape[0] * shape[1] > max_pixels:
                raise RowError(
                    Status.CORRUPT,
                    f"image of {shape[0]} x {shape[1]} pixels is too large",
                )
            if min(shape) < 1:
                raise RowError(Status.CORRUPT, "FITS image has no pixels")
            if start + length > len(data):
                raise RowError(
                    Status.CORRUPT,
                    f"FITS file is truncated: {len(data)} of {start + length} bytes",
                )
            return index
        offset, index = start + -(-length // BLOCK) * BLOCK, index + 1
    raise RowError(Status.CORRUPT, "FITS file holds no image")


def _check_tiles(data: bytes, index: int) -> None:
    """Refuse an image whose gzipped tiles inflate to more than it holds: astropy would inflate whatever is there."""
    with fits.open(io.BytesIO(data), memmap=False, lazy_load_hdus=True, disable_image_compression=True) as hdus:
        header = hdus[index].header
        if not header.get("ZIMAGE", False):
            return
        if header["NAXIS2"] > MAX_TILES:
            raise RowError(Status.CORRUPT, f"compressed FITS image of {header['NAXIS2']} tiles")
        table = hdus[index].data
        room = 8 * math.prod(_shape(header, "ZNAXIS"))
        for name in ("COMPRESSED_DATA", "GZIP_COMPRESSED_DATA"):
            for tile in table[name] if name in table.names else ():
                content = np.asarray(tile).tobytes()
                if content.startswith(GZIP_MAGIC):
                    room -= len(_gunzip(content, limit=room))


def _shape(header: fits.Header, key: str) -> list[int]:
    num_axes = int(header[key])
    if not 0 <= num_axes <= MAX_AXES:
        raise RowError(Status.CORRUPT, f"FITS extension of {num_axes} axes")
    return [int(header[f"{key}{axis}"]) for axis in range(1, num_axes + 1)]


def _gunzip(data: bytes, limit: int) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            plain = stream.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise RowError(Status.CORRUPT, f"gzip file cannot be read: {error}") from None
    if len(plain) > limit:
        raise RowError(Status.CORRUPT, "gzip file is too large when unpacked")
    return plain
