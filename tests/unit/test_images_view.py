"""The view of an image: zoobot's own pixels, compared with the transform of galaxy_datasets itself."""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
import pytest
from galaxy_datasets.transforms import get_galaxy_transform, minimal_view_config
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from galaxray import synthetic
from galaxray.images import View, decode
from galaxray.zoom import as_ratio, enlarge

SHAPES = [
    *((424, 424), (423, 423), (256, 256), (200, 200)),  # as served
    *((300, 424), (424, 301), (64, 70), (225, 224), (1000, 900)),
    *((2, 2), (1, 5), (5, 1)),
]


def zoobot_view(image: np.ndarray, *, greyscale: bool = False) -> np.ndarray:
    """Zoobot's pixels, as uint8 (224, 224, channels)."""
    config = minimal_view_config()
    config.greyscale = greyscale
    seen = get_galaxy_transform(config)(Image.fromarray(image)) * 255
    return seen.round().byte().permute(1, 2, 0).numpy()


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_equals_zoobot_on_noise(height: int, width: int) -> None:
    image = noise(height, width)
    np.testing.assert_array_equal(View(224, 1.2).apply(image), zoobot_view(image))


@pytest.mark.parametrize("size", [424, 423])
def test_equals_zoobot_on_a_jpeg(size: int) -> None:
    galaxy = synthetic.catalog(1, seed=3)[0]
    file = io.BytesIO()
    Image.fromarray(synthetic.image(galaxy.ra_deg, galaxy.dec_deg, size=size)).save(file, "JPEG")
    theirs = zoobot_view(np.array(Image.open(io.BytesIO(file.getvalue()))))
    np.testing.assert_array_equal(View(224, 1.2).apply(decode(file.getvalue())), theirs)


def test_equals_zoobot_on_blank_borders() -> None:
    image = np.zeros((424, 424, 3), np.uint8)
    image[150:300, 100:260] = noise(150, 160)
    np.testing.assert_array_equal(View(224, 1.2).apply(image), zoobot_view(image))
    image[::2] = 255
    np.testing.assert_array_equal(View(224, 1.2).apply(image), zoobot_view(image))


@pytest.mark.parametrize(("height", "width"), [(424, 424), (423, 300)])
def test_equals_zoobot_in_grey(height: int, width: int) -> None:
    image = noise(height, width)
    seen = View(224, 1.2, greyscale=True).apply(image)
    theirs = zoobot_view(image, greyscale=True)
    assert theirs.shape == (224, 224, 1)
    np.testing.assert_array_equal(seen, np.repeat(theirs, 3, axis=2))


@given(st.integers(2, 90), st.integers(2, 90), st.integers(0, 2**32), st.sampled_from([0, 3, 255]))
def test_enlarge_equals_pillow(height: int, width: int, seed: int, steepness: int) -> None:
    """Also on pictures of few levels, where sums that are whole levels are common."""
    levels = np.random.default_rng(seed).integers(0, steepness + 1, (height, width, 3), dtype=np.uint8)
    picture = Image.fromarray(levels)
    step = 1 / float(np.float32(1.2))
    matrix = (step, 0.0, step * (-width / 2) + width / 2, 0.0, step, step * (-height / 2) + height / 2)
    theirs = picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(np.asarray(enlarge(picture, Fraction(6, 5))), np.asarray(theirs))


@pytest.mark.parametrize("zoom", [1.25, 4 / 3, 1.5, 2.0])
def test_other_zooms_show_the_centre(zoom: float) -> None:
    image = np.zeros((240, 240, 3), np.uint8)
    image[60:180, 60:180] = 200
    seen = View(size=120, zoom=zoom).apply(image)
    assert (seen > 100).mean() == pytest.approx((zoom / 2) ** 2, abs=0.02)
    assert np.abs(seen.astype(int) - seen[::-1, ::-1]).max() <= 2


def test_zoom_1_only_resizes() -> None:
    image = noise(64, 64)
    np.testing.assert_array_equal(View(size=64).apply(image), image)
    resized = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(View(size=32).apply(image), resized)


def test_oblong_images_are_cropped() -> None:
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, 100:200] = 255
    seen = View(size=100).apply(image)
    assert (seen == 255).all()


def test_keys_tell_views_apart() -> None:
    views = [View(), View(size=128), View(zoom=1.2), View(zoom=1.25), View(greyscale=True)]
    assert len({view.key for view in views}) == len({view.name for view in views}) == len(views)
    assert View(224, 1.2).key == "image_224_zoom1.2"


@pytest.mark.parametrize("zoom", [0.9, 1.1, 1.2001, 3.14159, float("nan")])
def test_zoom_must_be_a_small_ratio(zoom: float) -> None:
    with pytest.raises(ValueError, match=r"zoom|NaN"):
        as_ratio(zoom)
    with pytest.raises(ValueError, match=r"zoom|NaN"):
        View(zoom=zoom)
