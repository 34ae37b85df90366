"""Decoding by content, and what is refused."""

from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from galaxray.errors import RowError
from galaxray.images import View, decode
from galaxray.schema import Status

RNG = np.random.default_rng(2)


def galaxy(height: int = 120, width: int = 120) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    light = 200 * np.exp(-np.hypot(x - width / 2, 2 * (y - height / 2)) / 15)[..., None] * [1.0, 0.8, 0.6]
    return np.clip(light + RNG.normal(20, 4, (height, width, 3)), 0, 255).astype(np.uint8)


def encode(picture: np.ndarray | Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(file, file_format, **options)
    return file.getvalue()


def assert_refused(data: bytes, status: Status, reason: str, **options: Any) -> None:
    with pytest.raises(RowError, match=reason) as caught:
        decode(data, **options)
    assert caught.value.status is status


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF"])
def test_decode_lossless(file_format: str) -> None:
    image = galaxy(50, 70)
    np.testing.assert_array_equal(decode(encode(image, file_format)), image)


def test_decode_webp_and_gif() -> None:
    image = galaxy()
    assert np.abs(decode(encode(image, "WEBP", lossless=True)).astype(int) - image).max() == 0
    assert np.abs(decode(encode(image, "GIF")).astype(int) - image).mean() < 10


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 100}])
def test_decode_jpeg_like_pillow(options: dict[str, Any]) -> None:
    data = encode(galaxy(101, 67), "JPEG", **options)
    np.testing.assert_array_equal(decode(data), np.array(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_decode_modes(mode: str) -> None:
    bright_sky = np.maximum(galaxy(), 60)  # in black and white, the sky of a galaxy would be as black as no picture
    picture = Image.fromarray(bright_sky).convert(mode)
    expected = np.array(picture.convert("RGB"))
    decoded = decode(encode(picture, "TIFF" if mode == "CMYK" else "PNG"))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)


def test_decode_cmyk_jpeg() -> None:
    data = encode(Image.fromarray(galaxy()).convert("CMYK"), "JPEG")
    np.testing.assert_array_equal(decode(data), np.array(Image.open(io.BytesIO(data)).convert("RGB")))


def test_decode_palette_with_transparency() -> None:
    picture = Image.fromarray(galaxy()).convert("P")
    decoded = decode(encode(picture, "PNG", transparency=bytes(range(256))))
    np.testing.assert_array_equal(decoded, np.array(picture.convert("RGB")))


def test_decode_16_bits() -> None:
    grey = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    decoded = decode(encode(grey, "PNG"))
    assert decoded[0, 0, 0] == 0
    assert decoded[-1, -1, 0] == 255
    np.testing.assert_array_equal(decoded[..., 0], grey // 257)


def test_decode_float_tiff() -> None:
    decoded = decode(encode(galaxy()[..., 0].astype(np.float32), "TIFF"))
    assert decoded[60, 60, 0] > 200 > 100 > np.median(decoded)


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_truncated(file_format: str, keep: float) -> None:
    data = encode(galaxy(), file_format)
    assert_refused(data[: int(keep * len(data))], Status.CORRUPT, ".")


def test_jpeg_without_end_marker() -> None:
    data = encode(galaxy(), "JPEG")
    assert data.endswith(b"\xff\xd9")
    assert_refused(data[:-2], Status.CORRUPT, "Premature end")


def test_jpeg_damaged_inside() -> None:
    data = encode(galaxy(), "JPEG", quality=95)
    middle = len(data) // 2
    assert_refused(data[:middle] + b"\xff\xd9", Status.CORRUPT, "premature end")
    assert_refused(data[:middle] + data[middle + 300 :], Status.CORRUPT, "Corrupt JPEG")
    noise = np.random.default_rng(4).bytes(200)  # its own: which error comes depends on the bytes
    assert_refused(data[:middle] + noise + data[middle + 200 :], Status.CORRUPT, "Corrupt JPEG")


def test_jpeg_with_more_behind_it() -> None:
    data = encode(galaxy(), "JPEG")
    np.testing.assert_array_equal(decode(data + b"\0" * 100), decode(data))


@pytest.mark.parametrize("level", [0, 33, 255])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_blank(file_format: str, level: int) -> None:
    assert_refused(encode(np.full((60, 60, 3), level, np.uint8), file_format), Status.BLANK, "every pixel")


def test_nearly_blank() -> None:
    image = np.full((60, 60, 3), 7, np.uint8)
    image[-1, -1] = 9
    assert_refused(encode(image, "PNG"), Status.BLANK, "every pixel")
    image[-1, -1] = 30
    assert decode(encode(image, "PNG"))[-1, -1, 0] == 30


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 1000, b"<html><body>No such layer</body></html>", b"\xff\xd8\xff", b"%!PS"]
)
def test_no_image(data: bytes) -> None:
    assert_refused(data, Status.CORRUPT, "cannot be decoded")


def test_message_is_one_line_without_addresses() -> None:
    with pytest.raises(RowError) as caught:
        decode(b"<html>")
    assert "0x" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF"])
def test_too_many_pixels(file_format: str) -> None:
    data = encode(galaxy(100, 101), file_format)
    assert decode(data, max_pixels=10_100).shape == (100, 101, 3)
    assert_refused(data, Status.CORRUPT, "101 x 100 pixels is too large", max_pixels=10_099)


def test_decompression_bombs() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    for side in (9_700, 60_000):  # 94 million and 3.6 thousand million pixels
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        rows = zlib.compress(bytes(3_000_000))
        bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
        assert_refused(bomb, Status.CORRUPT, ".")
    jpeg = bytearray(encode(galaxy(), "JPEG"))
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 5 : start + 9] = struct.pack(">HH", 65_500, 65_500)
    assert_refused(bytes(jpeg), Status.CORRUPT, "65500 x 65500 pixels is too large")


def test_threads() -> None:
    files = [encode(galaxy(80 + i % 7, 90), "JPEG" if i % 2 else "PNG") for i in range(40)]
    view = View(size=64, zoom=1.2)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: view.apply(decode(data)), files * 3))
    for data, seen in zip(files * 3, together, strict=True):
        np.testing.assert_array_equal(seen, view.apply(decode(data)))


def test_words_on_black_are_no_galaxy() -> None:
    # so SkyServer answers outside of its footprint
    picture = Image.new("RGB", (200, 200))
    ImageDraw.Draw(picture).text((20, 90), "The coordinates are outside\nthe footprint", fill=(255, 255, 255))
    file = io.BytesIO()
    picture.save(file, "PNG")
    with pytest.raises(RowError, match="of the pixels are black") as caught:
        decode(file.getvalue())
    assert caught.value.status == Status.BLANK


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_a_line_of_pixels_is_no_picture(file_format: str) -> None:
    """A view enlarges the shorter side, and the longer one with it: to hundreds of millions of pixels."""
    assert_refused(encode(galaxy(1, 21), file_format), Status.CORRUPT, "21 x 1 pixels: one side is more than 20 times")
    assert_refused(encode(galaxy(50_000, 2), file_format), Status.CORRUPT, "2 x 50000 pixels")
    assert View(8).apply(decode(encode(galaxy(5, 100), file_format))).shape == (8, 8, 3)


def test_a_jpeg_of_a_thousand_scans() -> None:
    """Each costs a pass over the picture and may take a hundred bytes of the file."""
    data = encode(galaxy(), "JPEG", progressive=True)
    start, end = data.rfind(b"\xff\xda"), data.rfind(b"\xff\xd9")
    assert data.count(b"\xff\xda") < 20
    assert_refused(data[:end] + data[start:end] * 1000 + data[end:], Status.CORRUPT, "scans")


def test_a_compressed_text_beside_the_pixels_is_not_unpacked() -> None:
    data = encode(galaxy(), "PNG")
    text = b"zTXt" + b"a\0\0" + zlib.compress(bytes(10**8))
    bomb = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    assert_refused(data[:33] + bomb + data[33:], Status.CORRUPT, "too large")


def test_what_a_camera_says_of_the_picture_changes_nothing() -> None:
    """An orientation in EXIF would turn the galaxy, and with it its arms."""
    exif, picture = Image.Exif(), galaxy()
    exif[0x0112] = 6
    assert np.array_equal(decode(encode(picture, "JPEG", exif=exif)), decode(encode(picture, "JPEG")))
