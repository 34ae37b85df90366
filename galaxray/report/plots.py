"""Plots as SVG that takes the colours of the page it stands in, light or dark."""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import matplotlib.style
import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from galaxray.report.classes import Grouping
from galaxray.report.sample import Rows, Sample
from galaxray.schema import COLUMNS, Status
from galaxray.trees import Question

__all__ = ["STATUS_COLORS", "latent_space", "measurements", "sky", "vote_fractions"]

Floats = npt.NDArray[np.floating[Any]]
Parameters = ParamSpec("Parameters")

# After Okabe & Ito (2008), told apart with any colour vision; the blue is lighter, to show on black as on white.
BLUE, ORANGE, GREEN, PINK, SKY, RED, GREY = "#2485C7", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999"
YELLOW, VIOLET, BROWN = "#B8A800", "#9678D3", "#A0674F"
COLORS = (BLUE, ORANGE, GREEN, PINK, SKY, RED, GREY, YELLOW, VIOLET, BROWN)
_STATUS_COLORS = (GREEN, GREY, BLUE, VIOLET, RED, ORANGE, PINK, YELLOW)
STATUS_COLORS: Mapping[str, str] = dict(zip(map(str, Status), _STATUS_COLORS, strict=True))
STATUS_MARKERS: Mapping[str, str] = dict(zip(map(str, Status), ".xsDv^P*", strict=True))

MAX_QUESTIONS = 12
INK = "#010203"  # stands for the page's text colour
STYLE: Mapping[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names are data: a dollar in one is a dollar
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}


def _plot(draw: Callable[Parameters, Figure | None]) -> Callable[Parameters, Markup | None]:
    """Draw in the report's style and give the SVG; None where there is nothing to draw."""

    @functools.wraps(draw)
    def rendered(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Markup | None:
        with matplotlib.style.context(["default", {**STYLE, "svg.hashsalt": draw.__name__}]):
            figure = draw(*args, **kwargs)
            return None if figure is None else _to_svg(figure, draw.__name__)

    return rendered


def _to_svg(figure: Figure, name: str) -> Markup:
    file = io.StringIO()
    figure.savefig(file, format="svg", dpi=160, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", svg)  # ids are unique only within a figure
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    return Markup(svg)


@_plot
def vote_fractions(rows: Rows, questions: Sequence[Question]) -> Figure | None:
    """Distribution of the vote fractions of each answer, where at least half of the volunteers are asked."""
    panels = []
    for question in questions[:MAX_QUESTIONS]:
        asked = rows[f"{question.name}_proportion-asked"] >= 0.5
        if asked.any():
            panels.append((question, asked))
    if not panels:
        return None
    figure, axes = _grid(len(panels), num_columns=3, height=2.3)
    edges = np.linspace(0, 1, 26).tolist()
    for ax, (question, asked) in zip(axes, panels, strict=True):
        for answer, label, color in zip(question.answers, question.labels, COLORS, strict=False):
            values = rows[f"{label}_fraction"][asked]
            ax.hist(values, edges, histtype="step", color=color, lw=1.6, label=answer.replace("-", " "))
        ax.set_title(f"{question.stem.replace('-', ' ')} ({asked.sum():,})", loc="left")
        ax.set_xlim(0, 1)
        ax.set_yscale("symlog", linthresh=10)
        ax.set_ylim(0, 10 * ax.get_ylim()[1])  # room for the legend
        ax.yaxis.set_major_formatter("{x:g}")
        ax.legend(ncols=2, loc="upper center", handlelength=1, columnspacing=0.8, labelspacing=0.2)
    figure.supxlabel("vote fraction", fontsize=10)
    figure.supylabel("galaxies", fontsize=10)
    return figure


@_plot
def measurements(rows: Rows) -> Figure | None:
    """Histograms of what is measured rather than voted on."""
    known = {
        "confidence": "confidence of the label",
        "reconstruction_error": "mean squared reconstruction error",
        "spiral_fraction": "share of the picture marked as arms, if any",
        "bar_fraction": "share of the picture marked as bar, if any",
        "bar_length_arcsec": "bar length [arcsec]",
        "bar_angle_deg": "position angle of the bar [deg, E of N]",
    }
    targets = [name for name in rows if _is_target(name, rows)]
    panels = {name: known.get(name, name) for name in (*targets, *known) if name in rows}
    panels = {
        name: title for name, title in panels.items() if rows[name].dtype.kind == "f" and np.isfinite(rows[name]).any()
    }
    if not panels:
        return None
    figure, axes = _grid(len(panels), num_columns=3, height=2.1)
    for ax, (name, title) in zip(axes, panels.items(), strict=True):
        values = rows[name][np.isfinite(rows[name])]
        if name in ("spiral_fraction", "bar_fraction"):
            values = values[values > 0]
        if name == "reconstruction_error" and values.min() > 0:
            ax.hist(values, np.geomspace(values.min(), values.max() * 1.001, 40).tolist(), color=BLUE)
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter("{x:g}")
        else:
            ax.hist(values, 40, color=BLUE)
        ax.set_xlabel(title)
    figure.supylabel("galaxies", fontsize=10)
    return figure


@_plot
def latent_space(sample: Sample, grouping: Grouping) -> Figure | None:
    """Scatter of the first two principal components of the embedding, coloured by class."""
    if len(sample.embedding) < 3:
        return None
    centred = sample.embedding - sample.embedding.mean(axis=0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    variance = scale**2 / max(float((scale**2).sum()), 1e-30)
    if len(scale) < 2:
        return None
    x, y = (left[:, :2] * scale[:2]).T
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    ax = figure.add_subplot()
    member = grouping.member[sample.embedded]
    shown = np.argsort([-grouping.count(i) for i in range(len(grouping.names))])[: len(COLORS)]
    size = float(np.clip(4000 / len(x), 4, 30))
    others = ~np.isin(member, shown)
    ax.scatter(x[others], y[others], s=size, color=GREY, alpha=0.4, lw=0, rasterized=True)
    for color, marker, index in zip(COLORS, "o^sDvo^sDv", sorted(shown), strict=False):
        style: dict[str, Any] = {"s": size, "color": color, "marker": marker, "alpha": 0.75, "lw": 0}
        ax.scatter(x[member == index], y[member == index], label=grouping.names[index], rasterized=True, **style)
    ax.set_xlabel(f"first principal component ({variance[0]:.0%} of the variance)")
    ax.set_ylabel(f"second ({variance[1]:.0%})")
    figure.legend(loc="outside right upper", markerscale=max(1.0, 5 / math.sqrt(size)))
    return figure


@_plot
def sky(rows: Rows, failures: Rows) -> Figure | None:
    """Mollweide map of the rows by status, and a closer look if they lie in a small field."""
    if not rows:
        return None
    every = {name: np.concatenate([rows[name], failures[name]]) for name in ("ra_deg", "dec_deg", "status")}
    ra, dec, status = every["ra_deg"].astype(float), every["dec_deg"].astype(float), every["status"]
    good = np.isfinite(ra) & (np.abs(dec) <= 90)
    if not good.any():
        return None
    ra, dec, status = ra[good], dec[good], status[good]
    east = (ra - _middle(ra) + 180) % 360 - 180
    is_small = max(np.ptp(east) * math.cos(math.radians(float(dec.mean()))), np.ptp(dec)) < 30
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=(1.6, 1)) if is_small else figure.add_gridspec(1, 1)
    _mollweide(figure.add_subplot(grid[0], projection="mollweide"), ra, dec, status)
    if is_small:
        ax = figure.add_subplot(grid[1])
        _scatter_status(ax, (east + _middle(ra)), dec, status)
        ax.invert_xaxis()
        ax.xaxis.set_major_formatter(lambda ra, _: f"{ra % 360:g}")
        ax.set_aspect(1 / max(0.05, math.cos(math.radians(float(dec.mean())))), adjustable="datalim")
        ax.set_xlabel("RA [deg]")
        ax.set_ylabel("Dec [deg]")
    handles, names = figure.axes[-1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=8)
    return figure


def _mollweide(ax: Axes, ra: Floats, dec: Floats, status: npt.NDArray[Any]) -> None:
    """East to the left, RA 180 in the middle."""
    _scatter_status(ax, np.radians(180 - ra % 360), np.radians(dec), status)
    plane_ra, plane_dec = _galactic_plane()
    order = np.argsort(plane_ra)
    ax.plot(np.radians(180 - plane_ra[order]), np.radians(plane_dec[order]), color=GREY, lw=1, ls="--")
    ticks = np.arange(-120, 121, 60)
    ax.set_xticks(np.radians(ticks), [f"{180 - tick}°" for tick in ticks])
    ax.grid(alpha=0.3, lw=0.5)
    ax.set_title("dashed: Galactic plane", fontsize=8.5, fontweight="normal", loc="right")


def _galactic_plane() -> tuple[Floats, Floats]:
    from astropy.coordinates import SkyCoord

    plane = SkyCoord(l=np.linspace(0, 360, 361), b=np.zeros(361), unit="deg", frame="galactic").icrs
    return plane.ra.deg, plane.dec.deg


def _scatter_status(ax: Axes, x: Floats, y: Floats, status: npt.NDArray[Any]) -> None:
    for name in Status:
        with_status = status == name
        if with_status.any():
            size = float(np.clip(6000 / len(x), 3, 25) if name is Status.OK else np.clip(20_000 / len(x), 8, 22))
            style: dict[str, Any] = {"s": size, "color": STATUS_COLORS[name], "marker": STATUS_MARKERS[name]}
            ax.scatter(x[with_status], y[with_status], label=name.replace("_", " "), lw=1, rasterized=True, **style)


def _middle(ra: Floats) -> float:
    """Mean direction, so that a field across RA 0 stays in one piece."""
    angle = np.radians(ra)
    return math.degrees(math.atan2(float(np.sin(angle).mean()), float(np.cos(angle).mean()))) % 360


def _is_target(name: str, rows: Rows) -> bool:
    """Whether a column is a regression target, which has a name of its own."""
    parts_of_trees = ("_fraction", "_proportion-asked", "_probability")
    return rows[name].dtype == np.float32 and name not in COLUMNS and not name.endswith(parts_of_trees)


def _grid(count: int, *, num_columns: int, height: float) -> tuple[Figure, list[Axes]]:
    num_columns = min(count, num_columns)
    num_lines = -(-count // num_columns)
    figure = Figure(figsize=(3.5 * num_columns, height * num_lines), layout="constrained")
    axes = list(figure.subplots(num_lines, num_columns, squeeze=False).flat)
    for ax in axes[count:]:
        ax.remove()
    return figure, axes[:count]
