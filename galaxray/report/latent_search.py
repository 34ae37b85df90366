"""What a search for a good latent size found, as plots (PNG), a table and a page in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from galaxray.display import one_line
from galaxray.report.evaluation_page import markdown
from galaxray.report.plots import BLUE, GREY, ORANGE, STYLE
from galaxray.training.latent_search import Searched

__all__ = ["draw_search", "in_words", "search_page", "search_table"]

DPI = 130
NAMES = {"knn": "nearest neighbours", "logistic": "logistic regression"}


def search_table(searched: Searched) -> list[list[str]]:
    """Figures by latent size; the first line is the header."""
    header = ["latent size", "MSE", "PCA's MSE", "ratio", "active", "KL [nats]", "validation loss"]
    header += list(NAMES.values()) if searched.classes else []
    lines = [header]
    for size, of in searched.sizes.items():
        line = [f"{size}", f"{of['mse']:.5f}", f"{of['pca_mse']:.5f}", f"{of['mse'] / of['pca_mse']:.2f}"]
        line += [f"{of['active']:.0f}", f"{of['kl']:.1f}", f"{of['validation_loss']:.2f}"]
        line += [f"{100 * of[k]:.1f} ± {100 * of[f'{k}_error']:.1f} %" for k in NAMES] if searched.classes else []
        lines.append(line)
    return lines


def search_page(searched: Searched, plots: Mapping[str, str], *, title: str, data: str, command: str, date: str) -> str:
    """Write a page in Markdown.

    Parameters
    ----------
    searched : Searched
    plots : mapping of str to str
        Caption by file name, from `draw_search`.
    title, data, command, date : str
    """
    galaxies = searched.galaxies
    lines = [f"# {one_line(title)}", ""]
    lines += [f"{galaxies['held_out']:,} galaxies, {searched.split} of `{one_line(data)}`"]
    lines[-1] += f" (digest `{searched.digest[:12]}`), {date}:"
    lines += ["", f"    {one_line(command)}", "", *markdown(search_table(searched)), ""]
    lines += [in_words(searched), ""]
    for name, caption in plots.items():
        lines += [f"![{caption}]({name})", "", caption, ""]
    lines += [
        "MSE: squared error per pixel and channel of reconstructions, images in [0, 1]; PCA's that of as many "
        f"principal components of {galaxies['train']:,} training images. Active: latent dimensions whose mean has a "
        "variance above 0.01 between galaxies. KL: of the latent distribution from the unit Gaussian, per galaxy. "
        "Validation loss: what was minimised, on the validation split.",
    ]
    if searched.classes:
        majority = next(iter(searched.sizes.values()))["majority"]
        lines[-1] += (
            f" Accuracy of classifiers on the latents of {galaxies['labelled']:,} held-out galaxies, for "
            f"{one_line(', '.join(searched.classes))}, with binomial standard errors; always guessing the most "
            f"frequent class is right in {100 * majority:.1f} %. No model has seen these labels."
        )
    return "\n".join([*lines, ""])


def in_words(searched: Searched) -> str:
    """Which size to take, and why."""
    if len(searched.sizes) == 1:
        return "One size only: --latent-dims compares several."
    return (
        f"Size {searched.suggested} is enough: the smallest whose validation loss is within 2 % of the least of all. "
        "Take a larger one if its classifiers are better by more than their errors."
    )


def draw_search(searched: Searched, folder: Path) -> dict[str, str]:
    """Draw error, use of the latent space, accuracy and pictures against latent size.

    Parameters
    ----------
    searched : Searched
    folder : Path
        Where the files go.

    Returns
    -------
    dict of str to str
        Caption by name of the file.
    """
    plots: dict[str, tuple[str, Callable[[Searched], Figure]]] = {
        "error.png": (
            "Squared error of reconstructions of held-out galaxies, beside as many principal components.",
            _error,
        ),
        "latent_space.png": (
            "Active dimensions of the latent space, and nats per galaxy that it holds.",
            _latent_space,
        ),
        "accuracy.png": ("Classes told from the latents of held-out galaxies, with standard errors.", _accuracy),
        "reconstructions.png": ("The same held-out galaxies: as they are, and from latents of each size.", _pictures),
    }
    if not searched.classes:
        del plots["accuracy.png"]
    with matplotlib.style.context(["default", dict(STYLE)]):
        for name, (_, draw) in plots.items():
            draw(searched).savefig(folder / name, dpi=DPI, facecolor="white", metadata={"Software": None})
    return {name: caption for name, (caption, _) in plots.items()}


def _error(searched: Searched) -> Figure:
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    ax = figure.add_subplot()
    for key, name, style, color in (
        ("mse", "autoencoder", "o-", BLUE),
        ("pca_mse", "principal components", "s--", ORANGE),
    ):
        ax.plot(list(searched.sizes), [1e3 * of[key] for of in searched.sizes.values()], style, color=color, label=name)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("mean squared error per pixel [10⁻³]")
    ax.legend()
    _along_sizes(ax, searched)
    return figure


def _latent_space(searched: Searched) -> Figure:
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes = list(searched.sizes)
    left.plot(sizes, sizes, color=GREY, ls="--", lw=1, label="all of them")
    left.plot(sizes, [of["active"] for of in searched.sizes.values()], "o-", color=BLUE)
    left.set_ylabel("active dimensions")
    left.legend()
    right.plot(sizes, [of["kl"] for of in searched.sizes.values()], "o-", color=BLUE)
    right.set_ylabel("divergence per galaxy [nats]")
    for ax in (left, right):
        ax.set_ylim(bottom=0)
        _along_sizes(ax, searched)
    return figure


def _accuracy(searched: Searched) -> Figure:
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    ax = figure.add_subplot()
    sizes, of_sizes = np.array(list(searched.sizes)), list(searched.sizes.values())
    for (key, name), style, color, aside in zip(
        NAMES.items(), ("o-", "s--"), (BLUE, ORANGE), (0.99, 1.01), strict=True
    ):
        share, error = (100 * np.array([of[k] for of in of_sizes]) for k in (key, f"{key}_error"))
        ax.errorbar(sizes * aside, share, error, fmt=style, color=color, capsize=3, label=name)
    ax.axhline(100 * of_sizes[0]["majority"], color=GREY, ls=":", lw=1.5, label="most frequent class")
    ax.set_ylabel(f"right of {searched.galaxies['labelled']:,} galaxies [%]")
    ax.legend()
    _along_sizes(ax, searched)
    return figure


def _pictures(searched: Searched) -> Figure:
    rows = {"image": searched.originals}
    rows |= {f"{size}": pictures for size, pictures in searched.reconstructions.items()}
    columns = len(searched.originals)
    figure = Figure(figsize=(1.1 * columns + 0.5, 1.1 * len(rows) + 0.3), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        for ax, picture in zip(line, pictures, strict=True):
            ax.imshow(picture, interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.supylabel("latent size", fontsize=10)
    return figure


def _along_sizes(ax: Axes, searched: Searched) -> None:
    """Latent sizes along x, each a tick; doubled sizes are as far apart as others."""
    ax.set_xscale("log")
    ax.set_xticks(list(searched.sizes), [f"{size}" for size in searched.sizes])
    ax.minorticks_off()
    ax.set_xlabel("latent size")
