from __future__ import annotations

import numpy as np
import pytest

from galaxray.morphometry import bar_length_and_angle, marked_fraction


def ellipse(length: float, width: float, angle_deg: float, size: int = 200) -> np.ndarray:
    """Filled ellipse with its long axis at ``angle_deg`` east of north; north is up, east is left."""
    row, column = np.mgrid[:size, :size] - (size - 1) / 2
    north, east = -row, -column
    angle = np.radians(angle_deg)
    along = north * np.cos(angle) + east * np.sin(angle)
    across = -north * np.sin(angle) + east * np.cos(angle)
    return np.where((along / (length / 2)) ** 2 + (across / (width / 2)) ** 2 <= 1, 255, 0).astype(np.uint8)


@pytest.mark.parametrize("angle", [0, 30, 90, 120, 175])
def test_length_and_angle_of_an_ellipse(angle):
    length, measured = bar_length_and_angle(ellipse(100, 20, angle), pixel_scale_arcsec=0.5)
    assert length == pytest.approx(50, rel=0.02)
    assert abs((measured - angle + 90) % 180 - 90) < 1


def test_nothing_marked_gives_nan():
    assert all(np.isnan(bar_length_and_angle(np.zeros((9, 9), np.uint8), 1.0)))
    # fewer than half of the volunteers
    assert all(np.isnan(bar_length_and_angle(np.full((9, 9), 100, np.uint8), 1.0)))


def test_marked_fraction():
    mask = np.zeros((4, 4), np.uint8)
    mask[0] = 200
    mask[1] = 100
    assert marked_fraction(mask) == 0.25
