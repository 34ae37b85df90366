"""Genuine survey files: FITS cutouts against the published picture, and every JPEG as zoobot sees it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from galaxy_datasets.transforms import get_galaxy_transform, minimal_view_config
from PIL import Image

from galaxray.errors import RowError
from galaxray.images import View, decode
from galaxray.schema import Status

DATA = Path(os.environ.get("GALAXRAY_REAL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
CUTOUTS = DATA / "c1_legacysurvey_cutout_service"

pytestmark = pytest.mark.skipif(not CUTOUTS.is_dir(), reason="needs the shared data")


def status_of(path: Path) -> str:
    try:
        decode(path.read_bytes())
    except RowError as error:
        return f"{error.status.value}: {error}"
    return Status.OK.value


def test_stretch_equals_the_published_picture() -> None:
    """A cutout of the viewer, and the picture of it that Galaxy Zoo DECaLS showed."""
    drawn = decode((CUTOUTS / "example_a.fits").read_bytes())
    published = decode((CUTOUTS / "example_a.jpeg").read_bytes())
    difference = np.abs(drawn.astype(int) - published)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-4


def test_bad_cutouts_are_refused() -> None:
    assert status_of(CUTOUTS / "example_bad_pix.fits") == "blank: band g: 76% of the pixels are blank"
    assert status_of(CUTOUTS / "example_incomplete.fits").startswith("corrupt: FITS file is truncated: 1389044 of")


def test_content_counts_not_the_name() -> None:
    bmp = next((DATA / "a6_misc_images" / "bmp_named_jpeg").glob("*.jpeg"))
    assert bmp.read_bytes().startswith(b"BM")
    assert status_of(bmp) == "ok"


def test_a_black_picture_is_blank() -> None:
    pictures = sorted((DATA / "b2_galaxy_builder" / "images").glob("*.png"))
    blank = [path.name for path in pictures if status_of(path).startswith("blank")]
    assert blank == ["mwa_subject_set_2.png"]
    assert len(pictures) == 8


@pytest.mark.parametrize(
    ("pattern", "number"),
    [("a2_sdss_gz1/images/*", 253), ("a3_gzdecals_rings/jpg256/*", 150), ("a1_efigi/images/*", 1800)],
)
def test_every_picture_is_decoded_and_seen_as_zoobot_does(pattern: str, number: int) -> None:
    transform = get_galaxy_transform(minimal_view_config())
    view = View(size=224, zoom=1.2)
    paths = sorted(DATA.glob(pattern))
    assert len(paths) == number
    for index, path in enumerate(paths):
        image = decode(path.read_bytes())
        with Image.open(path) as picture:
            np.testing.assert_array_equal(image, np.array(picture.convert("RGB")), err_msg=path.name)
            if index % 10 == 0:
                theirs = (transform(picture.convert("RGB")) * 255).round().byte().permute(1, 2, 0).numpy()
                np.testing.assert_array_equal(view.apply(image), theirs, err_msg=path.name)
