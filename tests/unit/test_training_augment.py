"""Images are varied in the ways that are asked for, and labels with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from galaxray.errors import ConfigError
from galaxray.models.orientations import NUM_ORIENTATIONS, mirror_order, oriented
from galaxray.training.augment import NUM_DRAWS, AugmentConfig, augment, to_float

NOTHING = AugmentConfig(rotate="none", mirror=False, zoom=0, shift=0, brightness=0, colour=0)


def pictures(count: int = 64, size: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


def draws(count: int = 64) -> Tensor:
    return torch.rand(count, NUM_DRAWS, generator=torch.Generator().manual_seed(1))


def varied(images: Tensor, **changes: object) -> tuple[Tensor, Tensor]:
    return augment(images, draws(len(images)), NOTHING.model_copy(update=changes))


def smooth_blob(size: int, x: float, y: float) -> Tensor:
    """A blob with its centre at (x, y) pixels from the middle."""
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    light = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 3.0**2))
    return torch.from_numpy(np.repeat(light[None, ..., None], 3, axis=3).astype(np.uint8))


def centre(images: Tensor) -> tuple[float, float]:
    light = images[0, 0].double().numpy()
    rows, columns = np.mgrid[: light.shape[0], : light.shape[1]] - (light.shape[0] - 1) / 2
    return float((light * columns).sum() / light.sum()), float((light * rows).sum() / light.sum())


def mirror(image: Tensor, side: bool) -> Tensor:
    return image.flip(2) if side else image


def test_nothing_asked_for_changes_nothing() -> None:
    images, mirrored = varied(pictures())
    assert torch.equal(images, to_float(pictures()))
    assert not mirrored.any()


def test_right_angles_and_mirrors_touch_no_pixel() -> None:
    plain = to_float(pictures())
    images, mirrored = varied(pictures(), rotate="right-angles", mirror=True)
    seen = set()
    for image, one, flag in zip(plain, images, mirrored, strict=True):
        symmetries = [
            (number, side)
            for number in range(4)
            for side in (False, True)
            if torch.equal(
                torch.rot90(image, number, (1, 2)).flip(2) if side else torch.rot90(image, number, (1, 2)), one
            )
        ]
        assert len(symmetries) == 1
        assert symmetries[0][1] == bool(flag)
        seen.add(symmetries[0])
    assert len(seen) == 8


def test_a_mirror_alone_swaps_left_and_right() -> None:
    images, mirrored = varied(pictures(), mirror=True)
    plain = to_float(pictures())
    assert 0.3 < float(mirrored.float().mean()) < 0.7
    torch.testing.assert_close(images[mirrored], plain[mirrored].flip(3), rtol=0, atol=0)
    torch.testing.assert_close(images[~mirrored], plain[~mirrored], rtol=0, atol=0)


def test_turned_by_any_angle_a_galaxy_keeps_its_distance_from_the_middle() -> None:
    blob = smooth_blob(64, 12, 0)
    angles = []
    for number in range(20):
        images, _ = augment(blob, draws(20)[number : number + 1], NOTHING.model_copy(update={"rotate": "any"}))
        x, y = centre(images)
        assert np.hypot(x, y) == pytest.approx(12, abs=0.3)
        angles.append(np.degrees(np.arctan2(y, x)))
    assert np.ptp(angles) > 200


def test_zoom_and_shift_stay_within_their_bounds() -> None:
    radii, places = [], []
    for number in range(20):
        one = draws(20)[number : number + 1]
        radii.append(centre(augment(smooth_blob(64, 12, 0), one, NOTHING.model_copy(update={"zoom": 0.2}))[0])[0])
        places.append(centre(augment(smooth_blob(64, 0, 0), one, NOTHING.model_copy(update={"shift": 0.1}))[0]))
    assert 12 / 1.25 < min(radii) < 11.5 < 12.5 < max(radii) < 12 * 1.22
    assert 4 < np.abs(places).max() <= 6.5


def test_brightness_goes_for_all_channels_and_colour_for_each() -> None:
    grey = torch.full((64, 8, 8, 3), 100, dtype=torch.uint8)
    dimmed, _ = varied(grey, brightness=0.2)
    assert torch.equal(dimmed[:, 0], dimmed[:, 1])
    gains = dimmed[:, 0, 0, 0] * 255 / 100
    assert 0.8 <= float(gains.min()) < 0.87 < 1.13 < float(gains.max()) <= 1.2
    coloured, _ = varied(grey, colour=0.1)
    assert float((coloured[:, 0] - coloured[:, 1]).abs().max()) > 0.03


def test_directions_are_swapped_with_the_mirror() -> None:
    gz1 = ["P_EL", "P_CW", "P_ACW", "P_EDGE", "P_CS"]
    assert mirror_order(gz1) == [0, 2, 1, 3, 4]
    assert mirror_order(["spiral_clockwise", "spiral_anticlockwise", "edge-on"]) == [1, 0, 2]
    assert mirror_order(["Clockwise", "Anti-clockwise", "counter-clockwise-bar"]) == [1, 0, 2]
    assert mirror_order(["smooth", "cw"]) == [0, 1]
    assert mirror_order(["left", "right"], [("left", "right")]) == [1, 0]
    with pytest.raises(ConfigError, match="'up' is to be swapped"):
        mirror_order(["left", "right"], [("left", "up")])


def test_orientations_are_the_symmetries_of_a_square() -> None:
    image = to_float(pictures(1))
    seen = [oriented(image, number) for number in range(NUM_ORIENTATIONS)]
    assert torch.equal(seen[0], image)
    assert torch.equal(seen[1], image.flip(3))
    assert not any(torch.equal(seen[i], seen[j]) for i in range(8) for j in range(i))
    assert all(torch.equal(one.flatten().sort().values, image.flatten().sort().values) for one in seen)
