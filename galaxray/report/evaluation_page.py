"""Figures of a model on labelled galaxies in words and tables: on a terminal, as a page, on its card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from galaxray.display import one_line
from galaxray.training.evaluation import LEVELS, Estimate

__all__ = ["figures_in_words", "markdown", "page", "table_of_parts"]

Metrics = Mapping[str, Any]
COVERAGES = tuple(f"coverage_{100 * level:g}" for level in LEVELS)


def figures_in_words(metrics: Metrics) -> dict[str, str]:
    """Name and value, with its standard error, of each headline figure."""
    overall = metrics["overall"]
    galaxies = {"galaxies": f"{metrics['galaxies']:,}"}
    match metrics["task"]:
        case "tree":
            return {
                **galaxies,
                "right answers where volunteers agree": f"{_percent(overall['accuracy'])} of {overall['agreeing']:,}",
                "deviance explained": _percent(overall["deviance_explained"]),
                "deviance per question": _versus(overall, "deviance"),
                "negative log-likelihood per question": _versus(overall, "nll"),
                "mean error of fractions": _number(overall["mae"]),
                "calibration error of fractions": _versus(overall, "calibration_error", "if_perfect"),
                **{
                    f"observed votes in the {name.removeprefix('coverage_')} % interval": _percent(overall[name])
                    for name in COVERAGES
                },
            }
        case "classes":
            return {
                **galaxies,
                "accuracy": _versus(overall, "accuracy"),
                "balanced accuracy": _number(overall["balanced_accuracy"]),
                "log loss": _versus(overall, "log_loss"),
                "Brier score": _number(overall["brier"]),
                "calibration error": _versus(overall, "calibration_error", "if_perfect"),
                "area under ROC, mean of classes": _number(overall["auc_mean"]),
            }
    names = {"r2": "R², mean of targets", "spearman": "Spearman, mean of targets", "mae": "mean error, mean of targets"}
    return galaxies | {name: _number(overall[key]) for key, name in names.items() if key in overall}


def table_of_parts(metrics: Metrics) -> list[list[str]]:
    """Table by question, class or target; the first line is the header."""
    keys: tuple[str, ...]
    match metrics["task"]:
        case "tree":
            header = [
                "question",
                "galaxies",
                "right answers",
                "of",
                "D²",
                "error",
                "calibration",
                *(f"{100 * x:g} %" for x in LEVELS),
            ]
            return [header, *(_question(name, figures) for name, figures in metrics["questions"].items())]
        case "classes":
            keys = ("precision", "recall", "f1", "auc")
            header = ["class", "galaxies", *keys]
            parts = metrics["classes"]
        case _:
            keys = ("mae", "rmse", "bias", "r2", "spearman")
            header = ["target", "galaxies", "MAE", "RMSE", "bias", "R²", "Spearman"]
            parts = metrics["targets"]
    lines = [
        [name, f"{figures['galaxies']:,}", *(_number(figures[key]) if key in figures else "-" for key in keys)]
        for name, figures in parts.items()
    ]
    return [header, *lines]


def page(metrics: Metrics, plots: Mapping[str, str], title: str) -> str:
    """Write a page in Markdown.

    Parameters
    ----------
    metrics : mapping
        Figures, and beside them ``split``, ``data``, ``models``, ``notes``, ``command``, ``date``.
    plots : mapping of str to str
        Caption by file name.
    title : str
    """
    lines = [f"# {_plain(title)}", ""]
    lines += [f"> **{_plain(note)}**" for note in metrics["notes"]]
    lines += [""] if metrics["notes"] else []
    lines += [f"{metrics['galaxies']:,} galaxies, {_plain(metrics['split'])} of `{_plain(metrics['data']['folder'])}`"]
    lines[-1] += f" (digest `{metrics['data']['digest'][:12]}`), {metrics['date']}:"
    lines += ["", f"    {_plain(metrics['command'])}", ""]
    lines += [*markdown([["figure", "value"], *map(list, figures_in_words(metrics).items())]), ""]
    lines += [*markdown(table_of_parts(metrics)), ""]
    for name, caption in plots.items():
        lines += [f"![{caption}]({name})", "", caption, ""]
    lines += [
        "After ± stands the standard error from which galaxies are in the set (bootstrap). What each figure means: "
        "`docs/evaluation.md` of galaxray.",
        "",
    ]
    return "\n".join(lines)


def markdown(table: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table that also reads well as it is."""
    cells = [[_plain(cell).replace("|", "\\|") for cell in line] for line in table]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
    return [rows[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *rows[1:]]


def _percent(estimate: Estimate) -> str:
    """A share in percent with its standard error."""
    if not np.isfinite(estimate.value):
        return "-"
    return f"{100 * estimate.value:.1f}{_error(100 * estimate.error, 1)} %"


def _number(estimate: Estimate) -> str:
    """A number with its standard error, to the digit that this leaves certain."""
    if not np.isfinite(estimate.value):
        return "-"
    error = float(estimate.error)
    digits = 3 if not np.isfinite(error) or error == 0 else int(np.clip(1 - np.floor(np.log10(error)), 0, 5))
    return f"{estimate.value:.{digits}f}{_error(error, digits)}"


def _versus(figures: Metrics, name: str, other: str = "constant") -> str:
    """A figure, and what a trivial or a perfect prediction would have."""
    than = figures[f"{name}_{other}"]
    value = than.value if isinstance(than, Estimate) else than
    return f"{_number(figures[name])} ({other.replace('_', ' ')}: {value:.4g})"


def _error(error: float, digits: int) -> str:
    return f" ± {error:.{digits}f}" if np.isfinite(error) else ""


def _question(name: str, figures: Metrics) -> list[str]:
    if not figures["galaxies"]:
        return [name, "0", *["-"] * (5 + len(COVERAGES))]
    return [
        name,
        f"{figures['galaxies']:,}",
        _percent(figures["accuracy"]),
        f"{figures['agreeing']:,}",
        _percent(figures["deviance_explained"]),
        _number(figures["mae"]),
        _number(figures["calibration_error"]),
        *(_percent(figures[key]).removesuffix(" %") for key in COVERAGES),
    ]


def _plain(text: str) -> str:
    return one_line(str(text))
