"""From the bytes of a file to the pixels that a model sees.

`decode` goes by content, never by name, and refuses what must not be scored; a `View` cuts and resizes to a model's
input. Both are pure functions of their input and safe in threads.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from galaxray.errors import RowError
from galaxray.schema import Status
from galaxray.stretch import decode_fits, grey_stretch, is_fits
from galaxray.zoom import as_ratio, enlarge

__all__ = ["View", "decode"]

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP")
# Of Pillow's many plugins only these: others run programs (EPS) or are rarely tested.
MAX_VIEW_PIXELS = 4096  # models see 64 to 512; a file that asks for a million would fill the memory
MAX_BLANK_CONTRAST = 2  # levels; compression ripples by so much
MAX_BLACK_FRACTION = 0.9
# SkyServer answers positions outside its footprint with words on black: 91 % of its pixels are exactly 0. Of genuine
# SDSS, DECaLS and EFIGI pictures at most 9 % are, of one from HST 66 %.
MAX_ASPECT = 20
# Cutouts are about square, strips at a survey's edge a few times longer than wide. To a view, the shorter side of a
# picture counts: one of a single row would be enlarged to millions of pixels.
JPEG_MAGIC = b"\xff\xd8\xff"
JPEG_SCAN = b"\xff\xda"
MAX_JPEG_SCANS = 100
# Encoders write about ten. Each costs a pass over the whole picture, and may have no more than a few bytes.


@dataclass(frozen=True)
class View:
    """What a model sees of an image.

    Parameters
    ----------
    size : int
        Width and height of the result in pixels.
    zoom : float
        Enlargement about the centre before resizing: 1, or a ratio of small whole numbers. 1.2 is that of Zoobot's
        inference view (``galaxy_datasets.transforms.minimal_view_config``), whose pixels `apply` reproduces.
    greyscale : bool
        Take the colours out first, for models of one channel; the three channels of the result are equal.
    """

    size: int = 224
    zoom: float = 1.0
    greyscale: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MAX_VIEW_PIXELS:
            raise ValueError(f"view of {self.size} pixels; 1 to {MAX_VIEW_PIXELS} are possible")
        as_ratio(self.zoom)

    @property
    def key(self) -> str:
        """Name of this view's column in a batch."""
        return f"image_{self.size}_zoom{self.zoom:g}{'_grey' if self.greyscale else ''}"

    @property
    def name(self) -> str:
        """The view in words."""
        return f"{self.size} px, zoom {self.zoom:g}{', greyscale' if self.greyscale else ''}"

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Zoom at the image's own size, resize the shorter side to ``size`` (bilinear, antialiased), crop the centre.

        Parameters
        ----------
        image : uint8 (H, W, 3)

        Returns
        -------
        uint8 (size, size, 3)
        """
        picture = Image.fromarray(image)
        if self.greyscale:
            picture = picture.convert("L")
        if self.zoom != 1:
            picture = enlarge(picture, as_ratio(self.zoom))
        width, height = picture.size
        short = min(width, height)
        resized = (int(self.size * width / short), int(self.size * height / short))
        if resized != picture.size:
            picture = picture.resize(resized, Image.Resampling.BILINEAR)
        left, top = (round((side - self.size) / 2) for side in resized)
        seen = picture.crop((left, top, left + self.size, top + self.size))
        return np.array(seen.convert("RGB"))


def decode(data: bytes, max_pixels: int = 64_000_000) -> NDArray[np.uint8]:
    """Decode an image file by its content: JPEG, PNG, BMP, GIF, TIFF, WebP or FITS.

    Parameters
    ----------
    data : bytes
        The whole file.
    max_pixels : int
        Largest image that is decoded; checked before its pixels are unpacked.

    Returns
    -------
    uint8 (H, W, 3)
        RGB, row 0 at the top (north).

    Raises
    ------
    RowError
        CORRUPT if the file is no image, truncated, damaged, too large or too elongated; BLANK if every pixel has the
        same value or nearly all are black.
    """
    try:
        if is_fits(data):
            image = decode_fits(data, max_pixels)
        elif data.startswith(JPEG_MAGIC):
            image = _decode_jpeg(data, max_pixels)
        else:
            image = _decode_picture(data, max_pixels)
    except RowError:
        raise
    except Exception as error:
        reason = str(error).partition("<_io")[0].strip() or type(error).__name__
        raise RowError(Status.CORRUPT, f"image cannot be decoded: {reason}") from None
    _check_aspect(image)
    _check_content(image)
    return image


def _check_aspect(image: NDArray[np.uint8]) -> None:
    height, width = image.shape[:2]
    if max(width, height) > MAX_ASPECT * min(width, height):
        reason = f"image of {width} x {height} pixels: one side is more than {MAX_ASPECT} times the other"
        raise RowError(Status.CORRUPT, reason)


def _check_content(image: NDArray[np.uint8]) -> None:
    first = image[0, 0].astype(np.int16)
    # row by row: of most images the first tells
    if not any((np.abs(row - first) > MAX_BLANK_CONTRAST).any() for row in image):
        raise RowError(Status.BLANK, f"every pixel has the value {tuple(first.tolist())}, within {MAX_BLANK_CONTRAST}")
    sample = image[::4, ::4]  # enough, and quick
    black = 1 - np.count_nonzero(sample[..., 0] | sample[..., 1] | sample[..., 2]) / sample[..., 0].size
    if black > MAX_BLACK_FRACTION:
        raise RowError(Status.BLANK, f"{100 * black:.0f} % of the pixels are black")


def _decode_jpeg(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    # Pillow and torchvision ignore libjpeg's warnings: of a JPEG damaged in the middle they return a picture that is
    # part galaxy, part grey. simplejpeg raises, and where there is nothing to warn of gives the same pixels.
    if data.count(JPEG_SCAN) > MAX_JPEG_SCANS:
        raise RowError(Status.CORRUPT, f"JPEG of {data.count(JPEG_SCAN)} scans, more than {MAX_JPEG_SCANS}")
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    _check_size(width, height, max_pixels)
    if colours not in ("YCbCr", "RGB", "Gray"):
        return _decode_picture(data, max_pixels)
    image: NDArray[np.uint8] = simplejpeg.decode_jpeg(data)
    return image


def _decode_picture(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
        _check_size(*picture.size, max_pixels)
        picture.load()
        if picture.mode == "RGB":
            return np.array(picture)
        if picture.mode == "F":
            grey = grey_stretch(np.array(picture))
        elif picture.mode.startswith("I"):
            grey = (np.clip(np.array(picture), 0, 65535) // 257).astype(np.uint8)
        elif picture.mode == "P" and "transparency" in picture.info:
            return np.array(picture.convert("RGBA").convert("RGB"))
        else:
            return np.array(picture.convert("RGB"))
        return np.repeat(grey[..., None], 3, axis=2)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise RowError(Status.CORRUPT, f"image of {width} x {height} pixels is too large")
