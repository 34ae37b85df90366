"""The synthetic sky over real HTTP, in a process of its own."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray
from PIL import Image

from galaxray.synthetic import SyntheticService, catalog, cutout, image, rgb
from galaxray.synthetic.__main__ import main
from galaxray.synthetic.service import LAYERS, CutoutRequest


@pytest.fixture(scope="module")
def service() -> Iterator[SyntheticService]:
    with SyntheticService() as running:
        yield running


def get(service: SyntheticService, path: str) -> tuple[bytes, str]:
    with urllib.request.urlopen(service.base_url + path, timeout=30) as reply:
        return reply.read(), reply.headers["Content-Type"]


def differ(one: NDArray[Any], other: NDArray[Any]) -> float:
    """How much two pictures differ in brightness; the compression of JPEG, sparing it more than colour, by 3."""
    return float(np.abs(one.mean(axis=2) - other.mean(axis=2)).mean())


def test_jpeg_is_the_picture_of_that_place(service: SyntheticService) -> None:
    body, content_type = get(service, "/viewer/jpeg-cutout?ra=150.1&dec=2.2&size=96&pixscale=0.4&layer=ls-dr10")
    assert content_type == "image/jpeg"
    picture = np.asarray(Image.open(io.BytesIO(body)), dtype=float)
    assert picture.shape == (96, 96, 3)
    assert differ(picture, image(150.1, 2.2, 96, 0.4)) < 4
    assert get(service, "/viewer/cutout.jpg?ra=150.1&dec=2.2&size=96&pixscale=0.4")[0] == body


def test_fits_has_the_layout_of_the_viewer(service: SyntheticService) -> None:
    body, content_type = get(service, "/viewer/fits-cutout?ra=150.1&dec=2.2&width=60&height=40&pixscale=0.5&bands=grz")
    assert content_type == "image/fits"
    with fits.open(io.BytesIO(body)) as hdus:
        assert len(hdus) == 1
        header, flux = hdus[0].header, hdus[0].data
    assert header["BITPIX"] == -32
    assert flux.shape == (3, 40, 60)
    assert [header[f"BAND{number}"] for number in range(3)] == list(header["BANDS"]) == ["g", "r", "z"]
    assert (header["IMAGEW"], header["IMAGEH"]) == (60, 40)
    np.testing.assert_array_equal(flux[:, ::-1], cutout(150.1, 2.2, (60, 40), 0.5))
    assert get(service, "/viewer/cutout.fits?ra=150.1&dec=2.2&width=60&height=40&pixscale=0.5")[0] == body


def test_fits_and_jpeg_agree_and_the_coordinates_are_right(service: SyntheticService) -> None:
    galaxy = next(g for g in catalog(100, 31) if g.kind == "smooth" and g.r_magnitude < 16)
    query = f"ra={galaxy.ra_deg + 0.002}&dec={galaxy.dec_deg + 0.003}&size=120&pixscale=0.5"
    jpeg = np.asarray(Image.open(io.BytesIO(get(service, f"/viewer/jpeg-cutout?{query}")[0])), dtype=float)
    with fits.open(io.BytesIO(get(service, f"/viewer/fits-cutout?{query}")[0])) as hdus:
        flux, wcs = hdus[0].data, WCS(hdus[0].header, naxis=2)
    drawn = rgb(flux[:, ::-1].astype(np.float32))
    assert differ(drawn, jpeg) < 4 < differ(drawn[::-1], jpeg)
    column, row = (round(float(pixel)) for pixel in wcs.all_world2pix(galaxy.ra_deg, galaxy.dec_deg, 0))
    around = flux[1, row - 8 : row + 9, column - 8 : column + 9]
    peak = np.unravel_index(around.argmax(), around.shape)
    assert np.hypot(peak[0] - 8, peak[1] - 8) < 2


def test_size_is_256_unless_asked_for_and_never_beyond_3000(service: SyntheticService) -> None:
    assert Image.open(io.BytesIO(get(service, "/viewer/jpeg-cutout?ra=1&dec=1")[0])).size == (256, 256)
    wanted = CutoutRequest.parse({"ra": "-1", "dec": "2", "size": "9000", "height": "20"}, LAYERS)
    assert (wanted.width, wanted.height, wanted.ra_deg) == (3000, 20, 359.0)
    assert wanted.pixel_scale_arcsec == 0.262


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("dec=1", "ra is missing"),
        ("ra=1", "dec is missing"),
        ("ra=x&dec=1", "could not convert"),
        ("ra=nan&dec=1", "ra is nan"),
        ("ra=1&dec=91", "dec is 91"),
        ("ra=1&dec=1&size=0", "size is 0"),
        ("ra=1&dec=1&bands=u", "there are only grz"),
        ("ra=1&dec=1&layer=hst", "no layer 'hst'; there are ls-dr8"),
    ],
)
def test_a_wrong_query_is_a_400_that_says_why(service: SyntheticService, query: str, reason: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(service, f"/viewer/jpeg-cutout?{query}")
    with caught.value as reply:
        assert reply.code == 400
        assert reason in reply.read().decode()


def test_what_is_not_covered_comes_as_a_black_image(service: SyntheticService) -> None:
    body, _ = get(service, "/viewer/jpeg-cutout?ra=10&dec=85&size=32")
    assert not np.asarray(Image.open(io.BytesIO(body))).any()
    with fits.open(io.BytesIO(get(service, "/viewer/fits-cutout?ra=10&dec=85&size=32")[0])) as hdus:
        assert not hdus[0].data.any()


def test_a_taken_port_is_an_error(service: SyntheticService) -> None:
    port = int(service.base_url.rsplit(":", 1)[1])
    with pytest.raises(RuntimeError, match="ended at once"), SyntheticService(port=port):
        pass


def test_the_service_dies_with_whoever_started_it() -> None:
    program = (
        "import time\n"
        "from galaxray.synthetic import SyntheticService\n"
        "with SyntheticService() as service:\n"
        "    print(service.base_url, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        base_url = parent.stdout.readline().strip()
        with urllib.request.urlopen(base_url, timeout=10) as reply:
            assert reply.status == 200
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(base_url, timeout=1).close()
        except OSError:
            return
        time.sleep(0.05)
    pytest.fail("still serving 10 s after its parent was killed")


def test_command_line_writes_a_catalogue_and_a_montage(tmp_path: Path) -> None:
    main(["--catalog", str(tmp_path / "sky.csv"), "--num", "5", "--seed", "3"])
    lines = (tmp_path / "sky.csv").read_text().splitlines()
    assert lines[0] == "object_id,ra_deg,dec_deg,size_arcsec"
    assert [line.split(",")[0] for line in lines[1:]] == [galaxy.object_id for galaxy in catalog(5, 3)]
    main(["--montage", str(tmp_path / "sky.jpg")])
    with Image.open(tmp_path / "sky.jpg") as sheet:
        assert sheet.width > 900
    assert (tmp_path / "sky.jpg").stat().st_size < 500_000
