from __future__ import annotations

import io
import struct

import faulty_service as service
import numpy as np
import pytest
from astropy.io import fits
from PIL import Image

from galaxray.cutouts.quality import BadImageError, check_image
from galaxray.schema import Status

MAX_PIXELS = 1_000_000
EXIF_WITH_END_MARKS = b"Exif\0\0II*\0" + bytes(100) + b"\xff\xd9" * 20  # as a thumbnail has one


def encoded(kind: str, size: tuple[int, int] = (60, 40), **options: object) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def fits_file(*hdus: object) -> bytes:
    buffer = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        encoded("JPEG"),
        encoded("JPEG", progressive=True),
        encoded("JPEG", quality=5, subsampling=2),
        encoded("JPEG", exif=EXIF_WITH_END_MARKS),
        encoded("JPEG") + b"trailing bytes of a camera",
        encoded("PNG"),
        fits_file(fits.PrimaryHDU(np.zeros((40, 60), np.float32))),
        fits_file(fits.PrimaryHDU(np.zeros((3, 40, 60), np.int16))),
        fits_file(fits.PrimaryHDU(), fits.ImageHDU(np.zeros((40, 60)))),
        fits_file(fits.PrimaryHDU(), fits.CompImageHDU(np.zeros((40, 60), np.float32))),
        fits_file(
            fits.PrimaryHDU(),
            fits.BinTableHDU.from_columns([fits.Column("a", "D", array=np.zeros(7))]),
            fits.ImageHDU(np.zeros((40, 60))),
        ),
    ],
)
def test_whole_images_pass_with_their_dimensions(data: bytes) -> None:
    assert check_image(data, max_pixels=MAX_PIXELS) == (60, 40)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF", "WEBP"])
def test_other_pictures_are_left_to_the_decoder(kind: str) -> None:
    data = encoded(kind)
    assert check_image(data, max_pixels=MAX_PIXELS) is None
    with pytest.raises(BadImageError, match="not a JPEG or PNG"):
        check_image(data, max_pixels=MAX_PIXELS, expected="jpg")


@pytest.mark.parametrize(
    "data",
    [
        encoded("JPEG"),
        encoded("JPEG", progressive=True),
        encoded("JPEG", exif=EXIF_WITH_END_MARKS),
        encoded("PNG"),
        fits_file(fits.PrimaryHDU(np.zeros((40, 60), np.float32))),
        fits_file(
            fits.PrimaryHDU(), fits.CompImageHDU(np.random.default_rng(0).integers(0, 9999, (90, 90), dtype=np.int32))
        ),
    ],
)
def test_every_truncation_is_found(data: bytes) -> None:
    check_image(data, max_pixels=MAX_PIXELS)
    end = len(data.rstrip(b"\0")) if data.startswith(b"SIMPLE") else len(data)  # padding may be lost
    for length in {1, 10, *range(20, end, 97), end - 2, end - 1}:
        if data.startswith(b"SIMPLE") and length > end - 2880:
            continue  # zeros of the image itself
        with pytest.raises(BadImageError):
            check_image(data[:length], max_pixels=MAX_PIXELS, expected="fits" if data[:6] == b"SIMPLE" else "jpg")


def test_an_empty_answer_is_blank() -> None:
    with pytest.raises(BadImageError) as bad:
        check_image(b"", max_pixels=MAX_PIXELS)
    assert bad.value.status is Status.BLANK


@pytest.mark.parametrize(
    ("data", "word", "momentary"),
    [
        (b"  <!DOCTYPE html><html>", "HTML", True),
        (b"too many requests", "'too many requests'", True),
        (bytes(range(128, 200)), "8081828384858687", True),
        (service.png_bomb(), "60000 x 60000 pixels are more than", False),
        (service.jpeg(128), "128 x 128 pixels instead of 64 x 64", False),
        (service.png(128), "128 x 128 pixels instead of 64 x 64", False),
    ],
)
def test_what_a_service_should_not_send(data: bytes, word: str, momentary: bool) -> None:
    with pytest.raises(BadImageError, match=word) as bad:
        check_image(data, max_pixels=MAX_PIXELS, expected="jpg", size_pixels=64)
    assert bad.value.momentary is momentary
    assert bad.value.status is Status.CORRUPT


def test_a_jpeg_bomb_is_found_before_it_is_decoded() -> None:
    data = bytearray(service.jpeg(64))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
    with pytest.raises(BadImageError, match="65000 x 65000"):
        check_image(bytes(data), max_pixels=MAX_PIXELS)


def test_a_fits_bomb_is_found_by_its_size() -> None:
    whole = fits_file(fits.PrimaryHDU(np.zeros((40, 60), np.uint8)))
    big = whole.replace(b"NAXIS1  =                   60", b"NAXIS1  =          90000000000")
    assert big != whole
    with pytest.raises(BadImageError, match="truncated FITS"):
        check_image(big, max_pixels=MAX_PIXELS)


@pytest.mark.parametrize(
    "card",
    [
        b"NAXIS1  =                  -60",
        b"NAXIS   =           2000000000",
        b"NAXIS   =                   -2",
        b"NAXIS1  =                    0",
        b"NAXIS1  = 'sixty   '          ",
        b"BITPIX  =       99999999999999",
    ],
)
def test_nonsense_in_a_fits_header(card: bytes) -> None:
    whole = fits_file(fits.PrimaryHDU(np.zeros((40, 60), np.uint8)))
    at = whole.index(card[:10])
    with pytest.raises(BadImageError):
        check_image(whole[:at] + card + whole[at + len(card) :], max_pixels=MAX_PIXELS)


def test_random_bytes_behind_a_magic_number_never_crash() -> None:
    rng = np.random.default_rng(1)
    magics = [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"SIMPLE  =", b""]
    for _ in range(3000):
        data = magics[rng.integers(4)] + rng.integers(0, 256, rng.integers(0, 400), dtype=np.uint8).tobytes()
        with pytest.raises(BadImageError):
            check_image(data, max_pixels=MAX_PIXELS, expected="jpg", size_pixels=64)
