"""A picture of the synthetic sky: rows of galaxies by what the volunteers say, labelled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from galaxray.synthetic.galaxy import SyntheticGalaxy
from galaxray.synthetic.masks import volunteer_masks
from galaxray.synthetic.render import image
from galaxray.synthetic.sky import catalog
from galaxray.synthetic.volunteers import LABELS, vote_probabilities

__all__ = ["montage"]

Choice = Callable[[SyntheticGalaxy, dict[str, float]], bool]

_ROWS: tuple[tuple[str, Choice], ...] = (
    ("smooth", lambda g, p: p["smooth-or-featured-dr5_smooth"] > 0.8 and g.merger_stage == "none"),
    ("disk, no arms", lambda g, p: g.kind == "disk" and g.arm_strength == 0 and g.merger_stage == "none"),
    ("two arms", lambda g, p: _spiral(g, p) and g.arm_count == 2 and g.bar_strength == 0),
    ("more arms", lambda g, p: _spiral(g, p) and g.arm_count != 2),
    ("strong bar", lambda g, p: p["bar-dr5_strong"] > 0.8 and g.kind == "disk" and g.merger_stage == "none"),
    ("ring", lambda g, p: g.ring_strength > 0.7 and g.axis_ratio > 0.5 and g.merger_stage == "none"),
    ("edge-on", lambda g, p: g.kind == "edge-on"),
    ("disturbed", lambda g, p: p["merging-dr5_major-disturbance"] > 0.5),
    ("merger", lambda g, p: p["merging-dr5_merger"] > 0.7),
    ("artifact", lambda g, p: g.kind == "artifact"),
)


def _spiral(galaxy: SyntheticGalaxy, chances: dict[str, float]) -> bool:
    return galaxy.kind == "disk" and chances["has-spiral-arms-dr5_yes"] > 0.85 and galaxy.merger_stage == "none"


def montage(columns: int = 9, size: int = 112, seed: int = 63) -> Image.Image:
    """Draw galaxies of each kind; at last barred spirals under what volunteers drew: arms blue, bars orange."""
    galaxies = catalog(1500, seed)
    chances = [dict(zip(LABELS, vote_probabilities(galaxy), strict=True)) for galaxy in galaxies]
    label_width, line = 92, size + 2
    sheet = Image.new("RGB", (label_width + columns * line, (len(_ROWS) + 1) * line), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)

    def add_row(number: int, label: str, pictures: Sequence[Image.Image]) -> None:
        draw.text((4, number * line + size / 2 - 7), label, fill="black", font=font)
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (label_width + column * line, number * line))

    for number, (label, wanted) in enumerate(_ROWS):
        chosen = [g for g, p in zip(galaxies, chances, strict=True) if wanted(g, p)][:columns]
        add_row(number, label, [_picture(galaxy, size) for galaxy in chosen])
    barred = [
        g for g, p in zip(galaxies, chances, strict=True) if _spiral(g, p) and p["bar-dr5_no"] < 0.3 and g.arm_count
    ]
    add_row(len(_ROWS), "masks drawn", [_with_masks(galaxy, size) for galaxy in barred[:columns]])
    return sheet


def _picture(galaxy: SyntheticGalaxy, size: int) -> Image.Image:
    return Image.fromarray(image(galaxy.ra_deg, galaxy.dec_deg, size, galaxy.size_arcsec / size))


def _with_masks(galaxy: SyntheticGalaxy, size: int) -> Image.Image:
    picture = np.asarray(_picture(galaxy, size), dtype=np.float32)
    for mask, colour in zip(volunteer_masks(galaxy, size), ((70, 140, 255), (255, 150, 40)), strict=True):
        opacity = 0.6 * mask[..., None]
        picture = picture * (1 - opacity) + opacity * np.array(colour, dtype=np.float32)
    return Image.fromarray(picture.astype(np.uint8))
