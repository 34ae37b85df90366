"""Plots of a model's figures on labelled galaxies, as PNG: for a card, a note, a talk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from galaxray.report.plots import BLUE, GREY, ORANGE, STYLE
from galaxray.training.evaluation import LEVELS
from galaxray.training.evaluation.classifiers import Judged

__all__ = ["draw_plots"]

Metrics = Mapping[str, Any]
Floats = npt.NDArray[np.floating[Any]]

DPI = 130
MAX_POINTS = 4000
MAX_CELLS = 12  # classes in a confusion matrix whose numbers can still be read


def draw_plots(metrics: Metrics, judged: Judged, folder: Path) -> dict[str, str]:
    """Draw what there is to see of a task.

    Parameters
    ----------
    metrics : mapping
        From `galaxray.training.evaluation.classifiers.metrics_of`.
    judged : Judged
    folder : Path
        Where the files go.

    Returns
    -------
    dict of str to str
        Caption by name of the file.
    """
    with matplotlib.style.context(["default", dict(STYLE)]):
        if judged.task == "tree":
            figures = _of_votes(metrics)
        elif judged.task == "classes":
            figures = _of_classes(metrics, judged.labels)
        else:
            figures = {"scatter.png": ("Predicted against true numbers.", _scatter(metrics, judged))}
        for name, (_, figure) in figures.items():
            figure.savefig(folder / name, dpi=DPI, facecolor="white", metadata={"Software": None})
    return {name: caption for name, (caption, _) in figures.items()}


def _of_votes(metrics: Metrics) -> dict[str, tuple[str, Figure]]:
    asked = {name: question for name, question in metrics["questions"].items() if question["galaxies"]}
    agreed = {name: question for name, question in asked.items() if question["agreeing"]}
    checked = {name: question for name, question in asked.items() if question["cells"]}
    panels = {"all questions": metrics["overall"], **asked}
    figures = {
        "reliability.png": (
            "Observed share of votes where a fraction was predicted, with standard errors; on the dashed line the "
            "model is calibrated. Bars: where the votes are.",
            _reliability(panels, "predicted vote fraction", "observed share of votes", "reliability_votes"),
        )
    }
    if checked:
        figures["coverage.png"] = (
            "Observed votes inside the central interval predicted for their number. Below the dashed line the model is "
            "overconfident. Grey: single questions.",
            _coverage(metrics["overall"], checked),
        )
        figures["pit.png"] = (
            "Where observed votes fall in the predicted distributions (PIT), with standard errors. Flat is right; a "
            "valley is overconfidence, a hill the opposite, a slope a bias.",
            _pit({"all questions": metrics["overall"], **checked}),
        )
    if agreed:
        tables = {name: (question["confusion"], question["answers"]) for name, question in agreed.items()}
        figures["confusion.png"] = (
            "Galaxies on which 80 % of the volunteers agree: their answer and the likeliest predicted one.",
            _confusion(tables, "volunteers"),
        )
    return figures


def _of_classes(metrics: Metrics, labels: Sequence[str]) -> dict[str, tuple[str, Figure]]:
    reliability = _reliability(
        {"all classes": metrics["overall"]}, "confidence of the label", "share of right labels", "reliability_galaxies"
    )
    return {
        "confusion.png": (
            "True and predicted classes: share of the true class, and galaxies.",
            _confusion({"": (metrics["confusion"], labels)}, "true class"),
        ),
        "reliability.png": (
            "Share of right labels by their confidence, with standard errors; on the dashed line the model is "
            "calibrated. Bars: where the galaxies are.",
            reliability,
        ),
    }


def _reliability(panels: Mapping[str, Metrics], x_label: str, y_label: str, amount: str) -> Figure:
    figure, axes = _grid(len(panels), width=2.6, height=2.6)
    for ax, (title, figures) in zip(axes, panels.items(), strict=True):
        weights = figures[amount]
        edges = np.linspace(0, 1, len(weights) + 1)
        ax.bar(edges[:-1], 0.25 * weights / weights.max(), np.diff(edges), align="edge", color=GREY, alpha=0.3, lw=0)
        ax.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1)
        predicted, observed = figures["reliability_predicted"], figures["reliability_observed"]
        error = np.nan_to_num(observed.error)
        ax.errorbar(predicted.value, observed.value, error, fmt="o-", color=BLUE, ms=3.5, lw=1.2, capsize=2)
        ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        ax.set_title(_short(title), loc="left")
    figure.supxlabel(x_label, fontsize=10)
    figure.supylabel(y_label, fontsize=10)
    return figure


def _coverage(overall: Metrics, questions: Mapping[str, Metrics]) -> Figure:
    figure = Figure(figsize=(4.2, 4), layout="constrained")
    ax = figure.add_subplot()
    nominal = 100 * np.array(LEVELS)
    ax.plot([40, 100], [40, 100], color=GREY, ls="--", lw=1)
    lines = [[100 * question[f"coverage_{level:g}"].value for level in nominal] for question in questions.values()]
    for line in lines:
        ax.plot(nominal, line, color=GREY, lw=0.8, alpha=0.7)
    observed = 100 * np.array([overall[f"coverage_{level:g}"] for level in nominal])  # value, error
    ax.errorbar(nominal, observed[:, 0], np.nan_to_num(observed[:, 1]), fmt="o-", color=BLUE, capsize=3)
    for level, value in zip(nominal, observed[:, 0], strict=True):
        ax.annotate(f"{value:.1f}", (level, value), (6, -11), textcoords="offset points", color=BLUE, size=9)
    ax.set(xlim=(45, 100), ylim=(max(0, min(45, float(np.min(lines)) - 5)), 100))
    ax.set_xlabel("nominal coverage [%]")
    ax.set_ylabel("observed votes inside [%]")
    return figure


def _pit(panels: Mapping[str, Metrics]) -> Figure:
    figure, axes = _grid(len(panels), width=2.6, height=1.9)
    for ax, (title, figures) in zip(axes, panels.items(), strict=True):
        density = figures["pit"]
        bins = len(density.value)
        centres = (np.arange(bins) + 0.5) / bins
        error = np.nan_to_num(density.error)
        ax.bar(centres, density.value, 1 / bins, color=BLUE, alpha=0.7, lw=0, yerr=error, ecolor=ORANGE)
        ax.axhline(1, color=GREY, ls="--", lw=1)
        ax.set(xlim=(0, 1), ylim=(0, max(2.0, 1.1 * float(np.nanmax(density.value)))))
        ax.set_title(_short(title), loc="left")
    figure.supxlabel("place in the predicted distribution of votes", fontsize=10)
    figure.supylabel("density", fontsize=10)
    return figure


def _confusion(tables: Mapping[str, tuple[npt.NDArray[np.int64], Sequence[str]]], rows: str) -> Figure:
    largest = max(len(table) for table, _ in tables.values())
    side = float(np.clip(0.42 * largest + 1.3, 2.4, 9))
    figure, axes = _grid(len(tables), width=side, height=side)
    for ax, (title, (table, names)) in zip(axes, tables.items(), strict=True):
        share = table / np.maximum(table.sum(1, keepdims=True), 1)
        ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
        if len(table) <= MAX_CELLS:
            _write_cells(ax, table, share)
        short = [_short(name, 18) for name in names]
        ax.set_xticks(range(len(names)), short, rotation=45, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(len(names)), short)
        ax.set_title(_short(title, 30), loc="left")
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
    figure.supxlabel("predicted", fontsize=10)
    figure.supylabel(rows, fontsize=10)
    return figure


def _write_cells(ax: Axes, table: npt.NDArray[np.int64], share: Floats) -> None:
    for (row, column), count in np.ndenumerate(table):
        if count:
            color = "white" if share[row, column] > 0.55 else "black"
            text = f"{100 * share[row, column]:.0f} %\n{count:,}"
            ax.text(column, row, text, ha="center", va="center", color=color, fontsize=7)


def _scatter(metrics: Metrics, judged: Judged) -> Figure:
    figure, axes = _grid(len(judged.labels), width=2.8, height=2.8)
    for ax, (column, label) in zip(axes, enumerate(judged.labels), strict=True):
        true, predicted = judged.truth[:, column].astype(float), judged.mean[:, column]
        known = np.flatnonzero(np.isfinite(true))
        some = known[:: -(-len(known) // MAX_POINTS) or 1]  # spread over all of them
        alpha = float(np.clip(200 / max(len(some), 1), 0.15, 0.8))
        ax.scatter(true[some], predicted[some], s=7, color=BLUE, alpha=alpha, lw=0)
        if len(some):
            both = np.concatenate([true[some], predicted[some]])
            margin = 0.04 * float(np.ptp(both)) or 0.5
            limits = (float(both.min()) - margin, float(both.max()) + margin)
            ax.plot(limits, limits, color=GREY, ls="--", lw=1)
            ax.set(xlim=limits, ylim=limits, aspect="equal")
        ax.set_title(_short(label), loc="left")
        target = metrics["targets"][label]
        if "r2" in target:
            ax.set_title(f"R² {target['r2'].value:.2f}", loc="right", fontsize=8.5, fontweight="normal")
    figure.supxlabel("true", fontsize=10)
    figure.supylabel("predicted", fontsize=10)
    return figure


def _short(text: str, length: int = 26) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _grid(count: int, *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(count, max(1, int(12 // width)))
    lines = -(-count // columns)
    figure = Figure(figsize=(max(width * columns, 3.2), height * lines + 0.3), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for ax in axes[count:]:
        ax.remove()
    return figure, axes[:count]
