"""From the bytes of a file to the pixels that a model sees.

`decode` goes by content, never by name, and refuses what must not be scored; a `View` cuts and resizes to a model's
input. Both are pure functions of their input and safe in threads.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from galaxray.errors import RowError
from galaxray.schema import Status
from galaxray.stretch import decode_fits, grey_stretch, is_fits

__all__ = ["View", "decode"]

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP")
# Of the many plugins of Pillow only these: others run programs (EPS) or are rarely tested.


@dataclass(frozen=True)
class View:
    """What a model sees of an image.

    Parameters
    ----------
    size : int
        Width and height of the result in pixels.
    zoom : float
        Enlargement about the centre before resizing; 1.2 is that of Zoobot's inference view
        (``galaxy_datasets.transforms.minimal_view_config``), whose pixels `apply` reproduces.
    greyscale : bool
        Remove the colours first, for models of one channel; the three channels of the result are equal.
    """

    size: int = 224
    zoom: float = 1.0
    greyscale: bool = False

    @property
    def key(self) -> str:
        """Name of this view's column in a batch."""
        return f"image_{self.size}_zoom{self.zoom:g}{'_grey' if self.greyscale else ''}"

    @property
    def name(self) -> str:
        """The view in words."""
        return f"{self.size} px, zoom {self.zoom:g}{', greyscale' if self.greyscale else ''}"

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Zoom, resize the shorter side to ``size`` (bilinear, antialiased), crop the centre.

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
        width, height = picture.size
        if self.zoom != 1:
            step = 1 / self.zoom
            matrix = (step, 0, width / 2 * (1 - step), 0, step, height / 2 * (1 - step))
            picture = picture.transform(
                picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
            )
        short = min(width, height)
        resized = (int(self.size * width / short), int(self.size * height / short))
        if resized != picture.size:
            picture = picture.resize(resized, Image.Resampling.BILINEAR)
        left, top = (round((side - self.size) / 2) for side in resized)
        picture = picture.crop((left, top, left + self.size, top + self.size))
        return np.array(picture.convert("RGB"))


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
        image = (
            decode_fits(data, max_pixels)
            if is_fits(data)
            else _decode_picture(data, max_pixels)
        )
    except RowError:
        raise
    except (
        Exception
    ) as error:  # Pillow and astropy raise nearly anything on damaged files
        reason = str(error).partition("<_io")[0].strip() or type(error).__name__
        raise RowError(Status.CORRUPT, f"image cannot be decoded: {reason}") from None
    if not (image != image[0, 0]).any():
        raise RowError(
            Status.BLANK, f"every pixel has the value {tuple(image[0, 0].tolist())}"
        )
    return image


def _decode_picture(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
        width, height = picture.size
        if width * height > max_pixels:
            raise RowError(
                Status.CORRUPT, f"image of {width} x {height} pixels is too large"
            )
        # Pillow is content with a JPEG that lacks only its end; whoever sent it may have lost more.
        if picture.format in ("JPEG", "MPO") and data.rfind(b"\xff\xd9") < data.rfind(
            b"\xff\xda"
        ):
            raise RowError(Status.CORRUPT, "JPEG is truncated: it has no end marker")
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
