"""Score the built-in models on synthetic galaxies that they have not seen, and on real images if there are any.

    python training/make_dataset.py --output data/sky-test --num 4000 --seed 3
    python training/evaluate_builtin.py
    python training/evaluate_builtin.py --real ../shared/data
    python training/evaluate_builtin.py --update-cards        # writes the figures into the models' JSON cards

What each figure means is in the docstrings of galaxray/training/scores.py, and in docs/model_card.md.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pydantic_settings import BaseSettings, SettingsConfigDict

from galaxray import posterior
from galaxray.config import ClassifierConfig
from galaxray.images import decode
from galaxray.models.load import load_classifier, load_segmenter
from galaxray.models.weights import load_model, resolve
from galaxray.training.dataset import SkyDataset, open_dataset
from galaxray.training.program import run_program
from galaxray.training.scores import (
    binary_scores,
    pca_reconstruction_error,
    score_masks,
    score_reconstruction,
    score_votes,
)

Scores = dict[str, float]
BATCH = 64
MODELS = ("classifier", "vae", "segmenter")


class Arguments(BaseSettings):
    """Score the built-in models on synthetic galaxies that they have not seen."""

    model_config = SettingsConfigDict(
        cli_kebab_case=True, cli_implicit_flags=True, env_prefix="GALAXRAY_EVALUATE_", use_attribute_docstrings=True
    )

    models: str = "builtin:"
    """Where the models are: ``builtin:`` or a folder ending in ``/``."""
    test: Path = Path("data/sky-test")
    """Data set to score on (make_dataset.py), of another seed than the training's."""
    train: Path = Path("data/sky-train")
    """Data set to find principal components on; at most 5,000 of its images are used."""
    passes: int = 5
    """Monte Carlo dropout passes of the second scoring of the classifier."""
    real: Path | None = None
    """Folder with real images, to score those too."""
    update_cards: bool = False
    """Write the figures into the models' cards."""

    def cli_cmd(self) -> None:
        """Score, print, and complete the cards."""
        test = open_dataset(self.test)
        scores: dict[str, dict[str, Scores]] = {name: {} for name in MODELS}
        scores["classifier"]["synthetic"] = self._votes(test, passes=1)
        scores["classifier"][f"synthetic_{self.passes}_passes"] = self._votes(test, passes=self.passes)
        scores["segmenter"]["synthetic"] = self._masks(test)
        scores["vae"]["synthetic"] = self._reconstructions(test)
        if self.real:
            scores["classifier"] |= {f"real_{name}": value for name, value in self._real().items()}
        for name, sets in scores.items():
            for images, figures in sets.items():
                _print(f"{name}, {images}", figures)
        if self.update_cards:
            for name in MODELS:
                self._update_card(name, scores[name], test)

    def _votes(self, test: SkyDataset, passes: int) -> Scores:
        model = load_classifier([f"{self.models}classifier"], ClassifierConfig(passes=passes), "cpu", "fp32")
        concentrations = _in_batches(test.images, lambda i, rows: model.predict(i, rows))
        assert model.tree is not None
        return score_votes(concentrations, model.tree, test.votes, test.probabilities)

    def _masks(self, test: SkyDataset) -> Scores:
        model = load_segmenter(f"{self.models}segmenter", "cpu", "fp32")
        return score_masks(_in_batches(test.images, lambda i, rows: model.segment(i)), test.masks)

    def _reconstructions(self, test: SkyDataset) -> Scores:
        module, _ = load_model(resolve(f"{self.models}vae"), "vae")

        def both(images: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
            inputs = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255
            with torch.inference_mode():
                reconstruction, mean, _ = module(inputs)
            error = (reconstruction - inputs).square().mean(dim=(1, 2, 3))
            return torch.cat([error[:, None], mean], dim=1).numpy()

        result = _in_batches(test.images, both)
        scores = score_reconstruction(result[:, 0], result[:, 1:])
        pca = pca_reconstruction_error(open_dataset(self.train).images[:5000], test.images, (16, 32))
        return scores | {f"pca_{n}_mse": error for n, error in pca.items()}

    def _real(self) -> dict[str, Scores]:
        assert self.real is not None
        model = load_classifier([f"{self.models}classifier"], ClassifierConfig(), "cpu", "fp32")
        tree = model.tree
        assert tree is not None
        featured, smooth, edge_on = (
            tree.column(f"{question}{tree.suffix}_{answer}")
            for question, answer in (
                ("smooth-or-featured", "featured-or-disk"),
                ("smooth-or-featured", "smooth"),
                ("disk-edge-on", "yes"),
            )
        )
        scores: dict[str, Scores] = {}
        for name, (paths, is_featured, is_edge_on) in _real_sets(self.real).items():
            images = np.stack([model.view.apply(decode(path.read_bytes())) for path in paths])
            fractions = posterior.fractions(_in_batches(images, lambda i, rows: model.predict(i, rows)), tree)
            ratio = fractions[:, featured] / (fractions[:, featured] + fractions[:, smooth])
            figures = {f"featured_{k}": v for k, v in binary_scores(ratio, is_featured).items()}
            if is_edge_on.any():
                disks = is_featured == 1
                edge = binary_scores(fractions[disks, edge_on], is_edge_on[disks])
                figures |= {f"edge-on_{k}": v for k, v in edge.items()}
            scores[name] = figures
        return scores

    def _update_card(self, name: str, scores: dict[str, Scores], test: SkyDataset) -> None:
        path = resolve(f"{self.models}{name}").with_suffix(".json")
        card = json.loads(path.read_text(encoding="utf-8"))
        card["metrics"] = {
            "command": "python training/evaluate_builtin.py --update-cards" + (" --real FOLDER" if self.real else ""),
            "date": time.strftime("%Y-%m-%d"),
            "test_set": test.config.model_dump(),
            **scores,
        }
        path.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        print(f"updated {path}")


def _in_batches(
    images: npt.NDArray[np.uint8], predict: Callable[[npt.NDArray[np.uint8], npt.NDArray[np.int64]], npt.NDArray[Any]]
) -> npt.NDArray[Any]:
    starts = range(0, len(images), BATCH)
    rows = np.arange(len(images), dtype=np.int64)
    return np.concatenate([predict(np.ascontiguousarray(images[s : s + BATCH]), rows[s : s + BATCH]) for s in starts])


def _real_sets(folder: Path) -> dict[str, tuple[list[Path], npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Images with experts' or volunteers' labels: paths, featured (1) or smooth (0), edge-on (1)."""
    sets = {}
    table = pd.read_csv(folder / "a2_sdss_gz1" / "labels_dev.csv", dtype={"OBJID": str})
    table = table[~table["class_name"].isin(["dont_know_star_artifact", "merger"])]
    names = table["class_name"]
    sets["sdss_gz1"] = _columns(folder / "a2_sdss_gz1", table, names != "elliptical", names == "edge_on")
    table = pd.read_csv(folder / "a4_galaxy10_decals" / "labels_dev.csv")
    table = table[~table["class_name"].isin(["Disturbed", "Merging"])]
    names = table["class_name"]
    sets["galaxy10_decals"] = _columns(
        folder / "a4_galaxy10_decals", table, ~names.str.contains("Smooth"), names.str.contains("Edge-on")
    )
    table = pd.read_csv(folder / "a1_efigi" / "labels_dev.csv")
    table = table[(table["T"] <= -1) & (table["T"] >= -6) | table["T"].between(1, 7)]
    sets["efigi"] = _columns(folder / "a1_efigi", table, table["T"] >= 1, table["T"] > 99)
    return sets


def _columns(
    folder: Path, table: pd.DataFrame, featured: pd.Series, edge_on: pd.Series
) -> tuple[list[Path], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    return [folder / name for name in table["image"]], featured.to_numpy(np.int64), edge_on.to_numpy(np.int64)


def _print(title: str, figures: Scores) -> None:
    print(title)
    for name, value in figures.items():
        print(f"    {name:34s} {value:.4g}")


if __name__ == "__main__":
    run_program(Arguments)
