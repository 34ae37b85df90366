"""Pillow's bilinear enlargement about the centre, to the last bit, in a fraction of its time.

Zoobot's view of an image begins with a zoom by 1.2 at the image's own size (torchvision's ``RandomAffine``, that is
``PIL.Image.transform``), in double precision and cut to whole levels at the end. Here the weights are whole numbers:
with a zoom of 6/5 every output pixel lies at a multiple of 1/12 between input pixels, so 16 bits hold the sums. Where a
sum is a whole level (about one in seventy; one in eight, where a side is odd), Pillow's rounding decides whether it
comes out one lower; there, and only there, it is computed as Pillow does.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["MAX_NUMERATOR", "as_ratio", "enlarge"]

Level = TypeVar("Level", np.uint8, np.uint16)

MAX_NUMERATOR = 8
"""(2 x 8)^2 x 255 is the most that 16 bits hold."""
MAX_SIDES = 1600
"""Width plus height up to which rounding the zoom to 32 bits moves a sum by less than its grain, 1/144."""
MAX_WHOLE_FRACTION = 0.2
"""Of whole sums (a blank border, say); with more of them Pillow is faster."""


def as_ratio(zoom: float) -> Fraction:
    """Write a zoom as a ratio of small whole numbers.

    Raises
    ------
    ValueError
        If it is below 1, or no ratio of whole numbers up to `MAX_NUMERATOR`.
    """
    ratio = Fraction(zoom).limit_denominator(MAX_NUMERATOR)
    if zoom < 1 or ratio.numerator > MAX_NUMERATOR or abs(ratio - zoom) > 1e-6:
        raise ValueError(f"zoom {zoom} is not a ratio of whole numbers up to {MAX_NUMERATOR}, and at least 1")
    return ratio


def enlarge(picture: Image.Image, zoom: Fraction) -> Image.Image:
    """Enlarge the centre of a picture to the picture's own size, bilinear.

    Parameters
    ----------
    picture : Image
        Mode RGB or L.
    zoom : Fraction
        From `as_ratio`.

    Returns
    -------
    Image
        What torchvision's ``RandomAffine(degrees=0, scale=(zoom, zoom))`` gives, pixel for pixel.
    """
    width, height = picture.size
    if min(width, height) < 2 or width + height > MAX_SIDES:
        return _enlarge_with_pillow(picture, zoom)
    # Four bytes a pixel, so that a pixel is transposed as one machine word.
    mode = "L" if picture.mode == "L" else "RGBX"
    pixels = np.frombuffer(picture.tobytes("raw", mode), np.uint8).reshape(height, width, -1)
    rows = _interpolate(pixels.reshape(height, -1), height, zoom)
    sums = _interpolate(_transpose(rows.reshape(height, width, -1)).reshape(width, -1), width, zoom)
    unit = np.uint16((2 * zoom.numerator) ** 2)
    levels = sums // unit
    if mode == "RGBX":
        sums[:, 3::4] = 1  # the filler is never looked at
    whole = np.flatnonzero(levels * unit == sums)
    if len(whole) > MAX_WHOLE_FRACTION * levels.size:
        return _enlarge_with_pillow(picture, zoom)
    levels.reshape(-1)[whole] = _levels_of_pillow(pixels, whole, zoom)
    enlarged = _transpose(levels.astype(np.uint8).reshape(width, height, -1))
    return Image.frombuffer(mode, picture.size, enlarged, "raw", mode, 0, 1).convert(picture.mode)


def _interpolate(lines: NDArray[Level], count: int, zoom: Fraction) -> NDArray[np.uint16]:
    """Sums of neighbouring lines, times 2 x numerator."""
    # Line i of the result lies at (i + 1/2) / zoom + (count - count / zoom) / 2 - 1/2 of the input.
    unit = 2 * zoom.numerator
    position = 2 * zoom.denominator * np.arange(count) + (count - 1) * (zoom.numerator - zoom.denominator)
    below, weight = position // unit, (position % unit).astype(np.uint16)[:, None]
    first = int(below[0])
    used = lines[first : int(below[-1]) + 2].astype(np.uint16)
    below -= first
    sums = used[below]
    sums *= np.uint16(unit) - weight
    above = used[below + 1]
    above *= weight
    sums += above
    return sums


def _levels_of_pillow(pixels: NDArray[np.uint8], where: NDArray[np.intp], zoom: Fraction) -> NDArray[np.uint16]:
    """Compute some pixels (flat indices into the transposed result) as ``PIL.Image.transform`` does, in its order."""
    height, width, channels = pixels.shape
    column, rest = np.divmod(where, height * channels)
    row, channel = np.divmod(rest, channels)
    left, right_weight = _positions_of_pillow(width, zoom)
    top, bottom_weight = _positions_of_pillow(height, zoom)
    corner = (top[row] * width + left[column]) * channels + channel
    right_weight, bottom_weight = right_weight[column], bottom_weight[row]
    flat = pixels.reshape(-1).astype(np.int16)

    def along_row(start: NDArray[np.intp]) -> NDArray[np.float64]:
        first = flat[start]
        level: NDArray[np.float64] = first + (flat[start + channels] - first) * right_weight
        return level

    upper, lower = along_row(corner), along_row(corner + width * channels)
    return (upper + (lower - upper) * bottom_weight).astype(np.uint16)


def _positions_of_pillow(count: int, zoom: Fraction) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    step, offset = _step_and_offset(count, zoom)
    position = step * (np.arange(count) + 0.5) + offset - 0.5
    below = np.floor(position)
    return below.astype(np.intp), position - below


def _step_and_offset(count: int, zoom: Fraction) -> tuple[float, float]:
    step = 1.0 / float(np.float32(float(zoom)))  # torchvision draws the zoom as a 32-bit number
    return step, step * (-count * 0.5) + count * 0.5


def _enlarge_with_pillow(picture: Image.Image, zoom: Fraction) -> Image.Image:
    (step_x, offset_x), (step_y, offset_y) = (_step_and_offset(count, zoom) for count in picture.size)
    matrix = (step_x, 0.0, offset_x, 0.0, step_y, offset_y)
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _transpose(pixels: NDArray[Level]) -> NDArray[Level]:
    height, width, channels = pixels.shape
    words = pixels.reshape(height, -1).view(f"u{pixels.itemsize * channels}")
    return np.ascontiguousarray(words.T).view(pixels.dtype).reshape(width, height, channels)
