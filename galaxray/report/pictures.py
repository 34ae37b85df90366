"""A galaxy's picture with what the models say about it: contours of masks, a scale bar, bars of vote fractions."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import contourpy
import numpy as np
import numpy.typing as npt
from PIL import Image

from galaxray.report.sample import Rows
from galaxray.schema import COLUMNS
from galaxray.trees import Question

__all__ = ["Bar", "Picture", "picture"]

MAX_BARS = 5
# Names that fit under a small picture; questions whose answers speak for themselves have none.
SHORT_NAMES = {
    "smooth-or-featured": "",
    "how-rounded": "",
    "disk-edge-on": "edge-on",
    "has-spiral-arms": "spiral arms",
    "bulge-size": "bulge",
    "bulge-shape": "bulge",
    "edge-on-bulge": "bulge",
    "spiral-winding": "winding",
    "spiral-arm-count": "arms",
    "clumpy-appearance": "clumpy",
    "clumps-embedded-larger-object": "clumps embedded",
}
HALF_OF_VOLUNTEERS = 127.5
SCALE_BARS_ARCSEC = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600)


@dataclass(frozen=True)
class Bar:
    """One prediction, drawn as a bar with its 90 % interval; all in percent but the text of a plain number."""

    name: str
    text: str
    percent: float | None = None
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What the template draws of one galaxy. Lengths are pixels of the picture."""

    object_id: str
    caption: str
    source: str
    width: int
    height: int
    spiral: str
    bar: str
    scale_length: float
    scale_text: str
    bars: tuple[Bar, ...]


def picture(rows: Rows, index: int, questions: tuple[Question, ...], segmenter_zoom: float) -> Picture | None:
    """Draw one row of `galaxray.report.sample.Sample.pictures`; None if its JPEG cannot be read."""
    row = {name: values[index] for name, values in rows.items()}
    try:
        with Image.open(io.BytesIO(row["jpeg"]), formats=("JPEG",)) as image:
            width, height = image.size
    except (OSError, TypeError):
        return None
    field = min(width, height) / segmenter_zoom
    corner = ((width - field) / 2, (height - field) / 2)
    scale = _number(row, "pixel_scale_arcsec") * _number(row, "image_width") / width
    scale_arcsec = max((s for s in SCALE_BARS_ARCSEC if s <= 0.4 * width * scale), default=0)
    ra, dec = _number(row, "ra_deg"), _number(row, "dec_deg")
    return Picture(
        object_id=str(row["object_id"] or ""),
        caption=f"RA {ra:.5f}, Dec {dec:+.5f}" if np.isfinite(ra + dec) else "",
        source="data:image/jpeg;base64," + base64.b64encode(row["jpeg"]).decode(),
        width=width,
        height=height,
        spiral=_contours(row.get("spiral_mask"), field, corner),
        bar=_contours(row.get("bar_mask"), field, corner),
        scale_length=scale_arcsec / scale if scale_arcsec else 0.0,
        scale_text=f"{scale_arcsec}″" if scale_arcsec < 60 else f"{scale_arcsec // 60}′",
        bars=tuple(_bars(row, questions))[:MAX_BARS],
    )


def _contours(png: bytes | None, field: float, corner: tuple[float, float]) -> str:
    """SVG path round what half of the volunteers would mark, on a picture whose central ``field`` the mask covers."""
    if png is None:
        return ""
    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        mask = np.asarray(image.convert("L"))
    scale = field / mask.shape[0]
    # a frame of zeros closes the contours that run out of the picture
    lines = contourpy.contour_generator(z=np.pad(mask, 1)).lines(HALF_OF_VOLUNTEERS)
    paths = []
    for line in lines:
        points = (np.asarray(line) - 0.5) * scale + corner  # the frame is 1 pixel, a pixel's centre is at 0.5
        paths.append("M" + " ".join(f"{x:.1f},{y:.1f}" for x, y in points) + "Z")
    return "".join(paths)


def _bars(row: dict[str, Any], questions: tuple[Question, ...]) -> Iterator[Bar]:
    """Predictions worth a line: of a tree the likeliest answer to each question that most volunteers are asked."""
    for question in questions:
        if _number(row, f"{question.name}_proportion-asked") >= 0.5:
            label = max(question.labels, key=lambda label: _number(row, f"{label}_fraction"))
            answer = label.removeprefix(f"{question.name}_")
            edges = [100 * _number(row, f"{label}_{edge}") for edge in ("90pc-lower", "90pc-upper")]
            name = SHORT_NAMES.get(question.stem, question.stem)
            yield _percent_bar(f"{name}: {answer}" if name else answer, 100 * _number(row, f"{label}_fraction"), *edges)
    if questions:
        return
    classes = [name for name in row if name.endswith("_probability")]
    for name in sorted(classes, key=lambda name: -_number(row, name)):
        yield _percent_bar(name.removesuffix("_probability"), 100 * _number(row, name))
    if not classes:
        for name, value in row.items():
            if name not in COLUMNS and isinstance(value, np.floating | float) and np.isfinite(value):
                yield Bar(name, f"{value:.3g}")


def _percent_bar(name: str, percent: float, lower: float = np.nan, upper: float = np.nan) -> Bar:
    edges = (lower, upper) if np.isfinite(lower + upper) else (None, None)
    return Bar(name.replace("-", " "), f"{percent:.0f} %", percent, *edges)


def _number(row: dict[str, Any], name: str) -> float:
    value: npt.ArrayLike | None = row.get(name)
    return float("nan") if value is None else float(np.asarray(value))
