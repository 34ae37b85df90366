from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from galaxray.config import CutoutConfig
from galaxray.cutouts import estimate, make_source
from galaxray.errors import ConfigError, RowError
from galaxray.schema import Status

ROW = {"object_id": "a", "ra_deg": 0.00001, "dec_deg": -10.373805561}


def ask(config: CutoutConfig, scale: float = 0.262) -> tuple[str, dict[str, str]]:
    parts = urlsplit(make_source(config).locate(ROW, scale))
    query = {name: values[0] for name, values in parse_qs(parts.query, strict_parsing=True).items()}
    return f"{parts.scheme}://{parts.netloc}{parts.path}", query


def test_legacy_survey_jpeg() -> None:
    address, query = ask(CutoutConfig(layer="ls-dr9", size_pixels=424))
    assert address == "https://www.legacysurvey.org/viewer/jpeg-cutout"
    assert query == {
        "ra": "0.00001000",
        "dec": "-10.37380556",
        "size": "424",
        "pixscale": "0.262",
        "layer": "ls-dr9",
    }


def test_legacy_survey_fits() -> None:
    address, query = ask(CutoutConfig(format="fits", bands="griz"))
    assert address.endswith("/viewer/fits-cutout")
    assert query["bands"] == "griz"


def test_sdss() -> None:
    address, query = ask(CutoutConfig(source="sdss", size_pixels=200), scale=0.396127)
    assert address == "https://skyserver.sdss.org/dr18/SkyServerWS/ImgCutout/getjpeg"
    assert query == {
        "ra": "0.00001000",
        "dec": "-10.37380556",
        "scale": "0.396127",
        "width": "200",
        "height": "200",
    }


def test_hips() -> None:
    address, query = ask(CutoutConfig(source="hips", hips="CDS/P/SDSS9/color & more", size_pixels=360), scale=1.0)
    assert address == "https://alasky.cds.unistra.fr/hips-image-services/hips2fits"
    assert query["hips"] == "CDS/P/SDSS9/color & more"
    assert float(query["fov"]) == pytest.approx(0.1)
    assert (query["width"], query["height"], query["projection"], query["format"]) == ("360", "360", "TAN", "jpg")


def test_another_service() -> None:
    assert ask(CutoutConfig(base_url="http://localhost:8000/mirror/"))[0] == (
        "http://localhost:8000/mirror/viewer/jpeg-cutout"
    )


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"size_pixels": 3001}, "size_pixels 3001.* 3000"),
        ({"source": "sdss", "size_pixels": 63}, "size_pixels 63"),
        ({"source": "sdss", "size_pixels": 2049}, "size_pixels 2049"),
        ({"source": "sdss", "format": "fits"}, "sdss gives jpg"),
        ({"source": "hips", "format": "fits"}, "hips gives jpg"),
        ({"base_url": "www.example.org"}, "http://HOST"),
        ({"base_url": "ftp://example.org"}, "http://HOST"),
        ({"base_url": "http://"}, "http://HOST"),
        ({"base_url": "http://a b/"}, "http://HOST"),
        ({"base_url": "http://h:99999999"}, "http://HOST"),
        ({"base_url": "http://user:secret@host/"}, "leave out user"),
        ({"base_url": "http://host/?a=1"}, "leave out user"),
        ({"source": "files", "path_template": "images/galaxy.jpg"}, "no field"),
        ({"source": "files", "path_template": "images/{id}.jpg"}, r"\{id\}"),
        ({"source": "files", "path_template": "images/{object_id.__class__}.jpg"}, "__class__"),
        ({"source": "files", "path_template": "images/{}.jpg"}, "none of them"),
        ({"source": "files", "path_template": "images/{object_id"}, "path_template"),
        ({"source": "files", "path_template": "images/{object_id:08d}.jpg"}, "path_template"),
        ({"source": "files", "path_template": "images/{row_index:c}.jpg"}, r"\{row_index:c\} has a format"),
        ({"source": "files", "path_template": "images/{ra_deg:{object_id}}.jpg"}, "has a format"),
        ({"source": "files", "path_template": "images/{object_id:9999999999}.jpg"}, "has a format"),
        ({"source": "files", "path_template": "s3://{object_id}/a.jpg"}, "s3://BUCKET/"),
        ({"source": "files", "path_template": "https://h/{object_id}.jpg"}, "write a path"),
    ],
)
def test_what_a_source_cannot_give_is_refused_before_the_run(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word) as refused:
        make_source(CutoutConfig(**settings))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(("ra", "dec"), [(float("nan"), 0.0), (0.0, float("nan")), (float("inf"), 0.0), (0.0, 90.1)])
def test_a_position_off_the_sky_is_never_asked_for(ra: float, dec: float) -> None:
    with pytest.raises(RowError) as failed:
        make_source(CutoutConfig()).locate({"ra_deg": ra, "dec_deg": dec}, 0.262)
    assert failed.value.status is Status.BAD_COORDINATES


def test_the_estimate_of_a_survey_says_ten_days_and_what_is_faster() -> None:
    found = estimate(CutoutConfig(), 8_700_000)
    assert (found.requests, found.seconds) == (8_700_000, 870_000.0)
    assert found.bytes == pytest.approx(171e9, rel=0.01)
    assert "8,700,000 requests to www.legacysurvey.org" in found.sentence
    assert "171 GB" in found.sentence
    assert "10.1 days" in found.sentence
    assert "--cutouts.source files" in found.sentence


def test_the_estimate_of_a_small_catalogue_is_short() -> None:
    found = estimate(CutoutConfig(), 100)
    assert found.sentence.endswith("at 10 requests/s 10 seconds at least")


def test_the_estimate_without_a_rate_promises_no_time() -> None:
    found = estimate(CutoutConfig(base_url="http://127.0.0.1:8000", requests_per_s=None, format="fits"), 10)
    assert found.seconds is None
    assert found.bytes == 10 * (256 * 256 * 3 * 4 + 5760)
    assert "127.0.0.1:8000" in found.sentence


def test_the_estimate_of_files_asks_nobody() -> None:
    found = estimate(CutoutConfig(source="files"), 1_000_000)
    assert (found.requests, found.bytes, found.seconds) == (0, None, None)
    assert found.sentence == "1,000,000 files are read, no service is asked"
