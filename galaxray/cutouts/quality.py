"""Whether bytes are a whole image of the size that was asked for, without decoding them.

The headers say how large an image is before a decompression bomb goes off, and a missing end mark tells a truncated
transfer from a whole one. What the pixels hold is looked at after decoding (:mod:`galaxray.images`).
"""

from __future__ import annotations

import math
import re
import struct
from typing import Literal, NamedTuple

from galaxray.errors import RowError
from galaxray.schema import Status

__all__ = ["BadImageError", "Dimensions", "check_image"]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_END = b"IEND\xaeB`\x82"

FITS_BLOCK_BYTES = 2880
FITS_CARD_BYTES = 80
MAX_FITS_CARDS = 36 * 100  # a header without END must not be searched through a large file
MAX_FITS_HDUS = 100
MAX_FITS_AXES = 999
FITS_INTEGER_CARD = re.compile(rb"([A-Z0-9_-]{1,8}) *= +([+-]?\d{1,18}) *(?:/.*)?")

JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15; the three are other segments
JPEG_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})  # no length follows
JPEG_SCAN = 0xDA
JPEG_END = b"\xff\xd9"


class Dimensions(NamedTuple):
    """Width and height of an image in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width} x {self.height} pixels"


class BadImageError(RowError):
    """What came is no image to be trusted.

    Parameters
    ----------
    message : str
    momentary : bool
        Whether the next answer may be better (an error page, a cut transfer) or will be the same (a wrong size).
    status : Status
    """

    def __init__(self, message: str, *, momentary: bool, status: Status = Status.CORRUPT) -> None:
        super().__init__(status, message)
        self.momentary = momentary


def check_image(
    data: bytes,
    *,
    max_pixels: int,
    expected: Literal["jpg", "fits"] | None = None,
    size_pixels: int | None = None,
) -> Dimensions | None:
    """Check the structure of a JPEG, PNG or FITS image.

    Parameters
    ----------
    data : bytes
        The whole file.
    max_pixels : int
        Most pixels (width x height) that may be decoded.
    expected : {"jpg", "fits"}, optional
        What a service was asked for; a PNG passes as "jpg". Any kind of file where left out.
    size_pixels : int, optional
        Width and height that were asked for; any where left out.

    Returns
    -------
    Dimensions or None
        None for a kind of file that is not checked here, which only happens where `expected` is left out.

    Raises
    ------
    BadImageError
        If the image is empty, truncated, of another kind or size, or too large.
    """
    if not data:
        raise BadImageError("empty: 0 bytes", momentary=True, status=Status.BLANK)
    if data.startswith(b"\xff\xd8\xff") and expected != "fits":
        dimensions = _check_jpeg(data)
    elif data.startswith(PNG_SIGNATURE) and expected != "fits":
        dimensions = _check_png(data)
    elif data.startswith(b"SIMPLE  =") and expected != "jpg":
        dimensions = _check_fits(data)
    elif expected is None:
        return None
    else:
        wanted = "FITS" if expected == "fits" else "JPEG or PNG"
        raise BadImageError(f"not a {wanted} image: {_describe(data)}", momentary=True)
    if dimensions.width * dimensions.height > max_pixels:
        raise BadImageError(
            f"{dimensions} are more than the {max_pixels:,} that are decoded (max_pixels)", momentary=False
        )
    if size_pixels is not None and dimensions != (size_pixels, size_pixels):
        raise BadImageError(f"{dimensions} instead of {Dimensions(size_pixels, size_pixels)}", momentary=False)
    return dimensions


def _describe(data: bytes) -> str:
    start = data[:64].lstrip()
    if start[:1] == b"<":
        return "an HTML or XML page"
    if start and all(32 <= byte < 127 or byte in b"\r\n\t" for byte in start):
        return f"the text {start[:40].decode('ascii')!r}"
    return f"bytes that begin with {data[:8].hex()}"


def _truncated(kind: str, data: bytes) -> BadImageError:
    return BadImageError(f"truncated {kind}: {len(data):,} bytes without its end", momentary=True)


def _check_jpeg(data: bytes) -> Dimensions:
    """Walk the segments to the first scan (ITU-T T.81, annex B) and look for the end mark after it."""
    dimensions = None
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise BadImageError("damaged JPEG: no marker between two segments", momentary=True)
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker in JPEG_BARE_MARKERS:
            at += 2
            continue
        if marker in JPEG_FRAMES and at + 9 <= len(data):
            height, width = struct.unpack_from(">HH", data, at + 5)
            dimensions = Dimensions(width, height)
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
        if marker == JPEG_SCAN:
            if dimensions is None or 0 in dimensions:
                raise BadImageError("damaged JPEG: no size", momentary=False)
            # In scan data 0xFF is always followed by 0x00 or a restart marker: what looks like the end is the end.
            if data.rfind(JPEG_END, at) < 0:
                raise _truncated("JPEG", data)
            return dimensions
    raise _truncated("JPEG", data)


def _check_png(data: bytes) -> Dimensions:
    """Read the header chunk and look for the end chunk (PNG specification, sections 5 and 11)."""
    if len(data) < 24 or data[12:16] != b"IHDR":
        raise _truncated("PNG", data)
    dimensions = Dimensions(*struct.unpack_from(">II", data, 16))
    if 0 in dimensions:
        raise BadImageError("damaged PNG: no size", momentary=False)
    if data.rfind(PNG_END) < 0:
        raise _truncated("PNG", data)
    return dimensions


def _check_fits(data: bytes) -> Dimensions:
    """Find the first image, plain or tile-compressed, and compare its header with the bytes (FITS 4.0, section 4.4)."""
    at = 0
    for _ in range(MAX_FITS_HDUS):
        if at >= len(data):
            break
        cards, at = _read_fits_header(data, at)
        num_axes = cards.get(b"NAXIS", 0)
        if not 0 <= num_axes <= MAX_FITS_AXES:
            raise BadImageError(f"damaged FITS: {num_axes} axes", momentary=False)
        axes = [cards.get(b"NAXIS%d" % axis, 0) for axis in range(1, num_axes + 1)]
        if min([*axes, cards.get(b"PCOUNT", 0), cards.get(b"GCOUNT", 0)]) < 0:
            raise BadImageError("damaged FITS: a negative length", momentary=False)
        num_values = cards.get(b"GCOUNT", 1) * (cards.get(b"PCOUNT", 0) + (math.prod(axes) if axes else 0))
        num_bytes = abs(cards.get(b"BITPIX", 8)) // 8 * num_values
        if at + num_bytes > len(data):
            raise BadImageError(f"truncated FITS: {len(data):,} bytes of {at + num_bytes:,}", momentary=True)
        prefix = b"ZNAXIS" if b"ZNAXIS" in cards else b"NAXIS"
        is_table = b"TFIELDS" in cards and prefix == b"NAXIS"
        dimensions = Dimensions(cards.get(prefix + b"1", 0), cards.get(prefix + b"2", 0))
        if min(dimensions) > 0 and not is_table:
            return dimensions
        at += math.ceil(num_bytes / FITS_BLOCK_BYTES) * FITS_BLOCK_BYTES
    raise BadImageError("FITS without an image", momentary=False)


def _read_fits_header(data: bytes, start: int) -> tuple[dict[bytes, int], int]:
    """Integer cards of the header at ``start``, and where the data after it begin."""
    cards: dict[bytes, int] = {}
    for index in range(MAX_FITS_CARDS):
        at = start + index * FITS_CARD_BYTES
        card = data[at : at + FITS_CARD_BYTES]
        if len(card) < FITS_CARD_BYTES:
            break
        if card.rstrip() == b"END":
            end = at + FITS_CARD_BYTES - start
            return cards, start + math.ceil(end / FITS_BLOCK_BYTES) * FITS_BLOCK_BYTES
        if match := FITS_INTEGER_CARD.fullmatch(card.rstrip()):
            cards[match[1]] = int(match[2])
    raise BadImageError("truncated FITS: a header without END", momentary=True)
