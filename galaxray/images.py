"""From the bytes of a file to the pixels that a model sees.

`decode` goes by content, never by name, and refuses what must not be scored; a `View` cuts and resizes to a model's
input. Both are pure functions of their input and safe in threads.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image

from galaxray.errors import RowError
from galaxray.schema import Status
from galaxray.stretch import decode_fits, grey_stretch, is_fits

__all__ = ["View", "decode"]

Level = TypeVar("Level", np.uint8, np.uint16)

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP")
# Of Pillow's many plugins only these: others run programs (EPS) or are rarely tested.
JPEG_MAGIC = b"\xff\xd8\xff"


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
        if self.size < 1:
            raise ValueError(f"view of {self.size} pixels")
        if self.zoom < 1 or self._ratio.numerator > MAX_NUMERATOR or abs(self._ratio - self.zoom) > 1e-6:
            raise ValueError(f"zoom {self.zoom} is not a ratio of whole numbers up to {MAX_NUMERATOR}, and at least 1")

    @property
    def _ratio(self) -> Fraction:
        return Fraction(self.zoom).limit_denominator(MAX_NUMERATOR)

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
            picture = _enlarge(picture, self._ratio)
        width, height = picture.size
        short = min(width, height)
        resized = (int(self.size * width / short), int(self.size * height / short))
        if resized != picture.size:
            picture = picture.resize(resized, Image.Resampling.BILINEAR)
        left, top = (round((side - self.size) / 2) for side in resized)
        seen = picture.crop((left, top, left + self.size, top + self.size))
        return np.array(seen.convert("RGB"))


MAX_NUMERATOR = 8  # (2 x 8)^2 x 255 is the most that `_enlarge` can hold in 16 bits


def _enlarge(picture: Image.Image, zoom: Fraction) -> Image.Image:
    """Enlarge the centre of a picture (RGB or L) to the picture's own size, bilinear.

    The same sums as Pillow's affine transform, five times as fast: the weights are multiples of 1 / (2 numerator), so
    whole numbers are enough, and like Pillow's the result is cut to whole levels only at the end. (Pillow computes in
    floating point; where the exact value is a whole number, it may come out one level lower.)
    """
    width, height = picture.size
    # Four bytes a pixel, so that a pixel is transposed as one machine word.
    mode = "L" if picture.mode == "L" else "RGBX"
    pixels = np.frombuffer(picture.tobytes("raw", mode), np.uint8).reshape(height, width, -1)
    rows = _interpolate(pixels.reshape(height, -1), height, zoom)
    columns = _transpose(rows.reshape(height, width, -1))
    enlarged = _interpolate(columns.reshape(width, -1), width, zoom)
    enlarged //= np.uint16((2 * zoom.numerator) ** 2)
    upright = _transpose(enlarged.astype(np.uint8).reshape(width, height, -1))
    return Image.frombuffer(mode, picture.size, upright, "raw", mode, 0, 1).convert(picture.mode)


def _interpolate(lines: NDArray[np.uint8] | NDArray[np.uint16], count: int, zoom: Fraction) -> NDArray[np.uint16]:
    # Line i of the result lies at (i + 1/2) / zoom + (count - count / zoom) / 2 - 1/2 of the input.
    unit = 2 * zoom.numerator
    position = 2 * zoom.denominator * np.arange(count) + (count - 1) * (zoom.numerator - zoom.denominator)
    below, weight = position // unit, (position % unit).astype(np.uint16)[:, None]
    first = int(below[0])
    used = lines[first : int(below[-1]) + 2].astype(np.uint16)
    mixed = used[below - first]
    mixed *= np.uint16(unit) - weight
    above = used[np.minimum(below - first + 1, len(used) - 1)]
    above *= weight
    mixed += above
    return mixed


def _transpose(pixels: NDArray[Level]) -> NDArray[Level]:
    height, width, channels = pixels.shape
    words = pixels.reshape(height, -1).view(f"u{pixels.itemsize * channels}")
    return np.ascontiguousarray(words.T).view(pixels.dtype).reshape(width, height, channels)


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
        CORRUPT if the file is no image, truncated, damaged or too large; BLANK if every pixel has the same value.
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
    if not any((row != image[0, 0]).any() for row in image):  # row by row: of most images one row is enough
        raise RowError(Status.BLANK, f"every pixel has the value {tuple(image[0, 0].tolist())}")
    return image


def _decode_jpeg(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    # Pillow and torchvision ignore libjpeg's warnings: of a JPEG damaged in the middle they return a picture that is
    # part galaxy, part grey. simplejpeg raises, and where there is nothing to warn of gives the same pixels.
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
