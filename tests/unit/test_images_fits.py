"""FITS cutouts: orientation, stretch, coverage, and files that lie about their size."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable

import numpy as np
import pytest
from astropy.io import fits

from galaxray.cutouts.quality import check_image
from galaxray.errors import RowError
from galaxray.images import decode
from galaxray.schema import Status
from galaxray.stretch import legacy_survey_rgb


def cutout(bands: str = "grz", size: int = 60) -> np.ndarray:
    """Fluxes in nanomaggies, (band, y, x): a red galaxy below the middle, and noise."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:size, :size]
    light = np.exp(-np.hypot(x - size / 2, y - size / 4) / 4)
    scale = {"g": 0.3, "r": 0.8, "i": 1.2, "z": 1.5}
    return np.stack([scale[b] * light + rng.normal(0, 0.004, light.shape) for b in bands]).astype(np.float32)


def to_file(data: np.ndarray, **header: object) -> bytes:
    file = io.BytesIO()
    hdu = fits.PrimaryHDU(data)
    hdu.header.update(header)
    hdu.writeto(file)
    return file.getvalue()


def assert_refused(data: bytes, status: Status, reason: str, max_pixels: int = 10**6) -> None:
    with pytest.raises(RowError, match=reason) as caught:
        decode(data, max_pixels)
    assert caught.value.status is status


def brightest_row(image: np.ndarray) -> int:
    return int(image.sum(axis=(1, 2)).argmax())


def test_north_is_up() -> None:
    flux = cutout()
    assert brightest_row(decode(to_file(flux, BANDS="grz", CD2_2=7e-5))) in (44, 45)  # 60 - 1 - 15: row 0 is south
    assert brightest_row(decode(to_file(flux, BANDS="grz"))) in (44, 45)
    assert brightest_row(decode(to_file(flux, BANDS="grz", CD2_2=-7e-5))) in (14, 15)


def test_stretch_is_the_published_one() -> None:
    """By hand: sky of no flux, and one bright pixel in each band."""
    flux = {band: np.zeros((1, 2), np.float32) for band in "grz"}
    flux["g"][0, 1], flux["r"][0, 1], flux["z"][0, 1] = 0.8, 1.4, 1.9  # 100 units each
    image = legacy_survey_rgb(flux)
    low, high = np.arcsinh(-0.5), np.arcsinh(300)

    def expected(units: float) -> int:
        level = (np.arcsinh(units) - low) / (high - low)
        colour = np.sin((1 - 1 / 2.5) * np.pi / 2)  # grey: no plane dominates
        return int(255 * min(level + level * (1 - colour) ** 2 * level, 1))

    assert image[0, 0].tolist() == [expected(0)] * 3
    assert image[0, 1].tolist() == [expected(100)] * 3


def test_planes_and_colours() -> None:
    centre = decode(to_file(cutout(), BANDS="grz"))[44, 30]
    assert centre[0] > centre[2]  # z is red, g is blue
    swapped = decode(to_file(cutout("zrg"), BANDS="zrg"))
    assert np.abs(swapped.astype(int) - decode(to_file(cutout(), BANDS="grz"))).mean() < 10
    np.testing.assert_array_equal(decode(to_file(cutout())), decode(to_file(cutout(), BANDS="grz")))


def test_bands_that_are_not_drawn() -> None:
    griz = decode(to_file(cutout("griz"), BANDS="griz"))
    assert griz[44, 30].min() > 150
    assert griz.shape == (60, 60, 3)


def test_one_band_is_grey() -> None:
    image = decode(to_file(1000 * cutout("r")[0] + 300, FILTER="r"))  # counts, on a sky of 300
    assert (image[..., 0] == image[..., 2]).all()
    assert image[44, 30, 0] == 255
    assert np.median(image) < 100


def test_nan_is_no_flux() -> None:
    flux = cutout()
    flux[:, :3] = np.nan
    image = decode(to_file(flux, BANDS="grz"))
    assert image[-3:].max() < 30


def test_picture_in_a_fits_file() -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(to_file(rgb, CD2_2=-1.0)), rgb)
    np.testing.assert_array_equal(decode(to_file(np.moveaxis(rgb, 2, 0))), rgb[::-1])


def test_scaled_integers() -> None:
    file = io.BytesIO()
    hdu = fits.PrimaryHDU((cutout("r")[0] * 1e4).astype(np.float32))
    hdu.scale("int16", bscale=0.5, bzero=100)
    hdu.writeto(file)
    plain = decode(to_file(cutout("r")[0] * 1e4))
    assert np.abs(decode(file.getvalue()).astype(int) - plain).mean() < 2


def test_image_in_an_extension_and_gzip() -> None:
    file = io.BytesIO()
    table = fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1, 2])])
    fits.HDUList([fits.PrimaryHDU(), table, fits.ImageHDU(cutout(), fits.Header({"BANDS": "grz"}))]).writeto(file)
    expected = decode(to_file(cutout(), BANDS="grz"))
    np.testing.assert_array_equal(decode(file.getvalue()), expected)
    np.testing.assert_array_equal(decode(gzip.compress(file.getvalue())), expected)


@pytest.mark.parametrize("planes", [1, 3])
@pytest.mark.parametrize("compression", ["GZIP_1", "RICE_1"])
def test_tile_compressed(compression: str, planes: int) -> None:
    flux = (cutout()[:planes] * 1e4).astype(np.int32)
    flux = flux[0] if planes == 1 else flux
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(flux, compression_type=compression)]).writeto(file)
    assert check_image(file.getvalue(), max_pixels=10**6) == (60, 60)
    np.testing.assert_array_equal(decode(file.getvalue()), decode(to_file(flux)))
    assert_refused(file.getvalue(), Status.CORRUPT, "too large", max_pixels=3599)
    assert_refused(file.getvalue()[:-2880], Status.CORRUPT, "truncated")
    damaged = file.getvalue().replace(b"ZNAXIS1 =                   60", b"ZNAXIS1 =                  600")
    assert_refused(damaged, Status.CORRUPT, "cannot be decoded")


def test_a_tile_compressed_cube_of_many_planes_is_refused() -> None:
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(np.zeros((17, 9, 9), np.int16))]).writeto(file)
    assert_refused(file.getvalue(), Status.CORRUPT, "17 planes is too large")


def test_blank_bands() -> None:
    flux = cutout()
    flux[0, :20] = 0
    assert_refused(to_file(flux, BANDS="grz"), Status.BLANK, "band g: 33% of the pixels are blank")
    flux[0, :20] = np.nan
    assert_refused(to_file(flux, BANDS="grz"), Status.BLANK, "band g: 33% of the pixels are blank")
    assert_refused(to_file(np.zeros((3, 9, 9), np.float32), BANDS="grz"), Status.BLANK, "100%")


def test_truncated() -> None:
    data = to_file(cutout(), BANDS="grz")
    for keep in (2880 + 100, len(data) // 2, 2880 + 4 * 60 * 60 * 3 - 1):
        assert_refused(data[:keep], Status.CORRUPT, "truncated")
    assert_refused(data[:1000], Status.CORRUPT, "header cannot be read")
    assert_refused(gzip.compress(data)[:-500], Status.CORRUPT, "gzip file cannot be read")


def test_sizes_are_checked_before_memory_is_asked_for() -> None:
    data = to_file(cutout(), BANDS="grz").replace(b"NAXIS1  =                   60", b"NAXIS1  =           2000000000")
    assert_refused(data, Status.CORRUPT, "2000000000 x 60 pixels is too large")
    assert_refused(
        gzip.compress(to_file(np.zeros((3, 2000, 2000), np.float32))), Status.CORRUPT, "too large when unpacked"
    )
    assert_refused(to_file(cutout()), Status.CORRUPT, "60 x 60 pixels is too large", max_pixels=3599)


def test_no_image() -> None:
    assert_refused(to_file(np.zeros(5, np.float32)), Status.CORRUPT, "holds no image")
    assert_refused(to_file(cutout("griz")), Status.CORRUPT, "4 planes without a BANDS card")


def headers(*cards: tuple[str, int | str]) -> bytes:
    """A FITS header, of whatever cards."""
    text = "".join(f"{key:8s}= {value!s:>20}".ljust(80) for key, value in cards) + "END".ljust(80)
    return text.ljust(-(-len(text) // 2880) * 2880).encode()


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    "lie",
    [
        [("NAXIS", 1), ("NAXIS1", -2880)],
        [("NAXIS", 1), ("NAXIS1", 8), ("PCOUNT", -2888)],
        [("NAXIS", 1), ("NAXIS1", 8), ("GCOUNT", -360)],
        [("NAXIS", 10**15)],
        [("NAXIS", -1)],
        [("NAXIS", 0), *[("HISTORY", 0)] * 10_000],
    ],
    ids=["length", "heap", "groups", "axes", "no axes", "header"],
)
@pytest.mark.timeout(30)
def test_headers_that_lead_in_circles(lie: list[tuple[str, int]], pack: Callable[[bytes], bytes]) -> None:
    data = headers(("SIMPLE", "T"), ("BITPIX", 8), *lie) * 2
    assert_refused(pack(data), Status.CORRUPT, "negative length|axes|header")


@pytest.mark.parametrize("column", ["COMPRESSED_DATA", "GZIP_COMPRESSED_DATA"])
def test_a_tile_that_inflates_beyond_its_image(column: str) -> None:
    bomb = np.frombuffer(gzip.compress(bytes(10**7)), np.uint8)
    hdu = fits.CompImageHDU(cutout()[0], compression_type="GZIP_1", tile_shape=(60, 60), quantize_level=0)
    file = io.BytesIO()
    hdu.writeto(file)
    with fits.open(io.BytesIO(file.getvalue()), disable_image_compression=True) as hdus:
        about = {key: hdus[1].header[key] for key in hdus[1].header if key.startswith("Z")}
    table = fits.BinTableHDU.from_columns([fits.Column(column, "1PB", array=np.array([bomb, bomb], dtype=object)[:1])])
    table.header.update(about)
    file = io.BytesIO()
    table.writeto(file)
    assert_refused(file.getvalue(), Status.CORRUPT, "too large when unpacked")


@pytest.mark.timeout(30)
def test_a_table_of_a_thousand_million_columns() -> None:
    file = io.BytesIO()
    fits.CompImageHDU((cutout()[0] * 1000).astype(np.int32)).writeto(file)
    card = b"TFIELDS =                    "
    assert file.getvalue().count(card + b"1") == 1
    data = file.getvalue().replace(card + b"1", card[:-9] + b"2147483647")
    assert_refused(data, Status.CORRUPT, "2147483647 columns")


def test_an_image_in_a_million_tiles() -> None:
    file = io.BytesIO()
    table = fits.BinTableHDU(np.zeros(100_001, [("COMPRESSED_DATA", ">i4", 2)]))
    table.header.update(ZIMAGE=True, ZNAXIS=2, ZNAXIS1=400, ZNAXIS2=300, ZBITPIX=16, ZCMPTYPE="RICE_1")
    table.writeto(file)
    assert_refused(file.getvalue(), Status.CORRUPT, "tiles")
