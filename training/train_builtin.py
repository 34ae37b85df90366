"""Train one of the models that come with galaxray, on the synthetic sky.

    python training/make_dataset.py --output data/sky-train --num 40000 --seed 1
    python training/make_dataset.py --output data/sky-validation --num 2000 --seed 2
    python training/train_builtin.py --model classifier
    python training/train_builtin.py --model vae
    python training/train_builtin.py --model segmenter

Each writes OUTPUT/MODEL.safetensors and OUTPUT/MODEL.json; ``evaluate_builtin.py`` scores them and completes the cards.
On Linux the C library's allocator decides half of the speed: docs/model_card.md has the line that tells it to keep its
blocks.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from pydantic_settings import BaseSettings, SettingsConfigDict

from galaxray.models.weights import load_model, resolve, save_model
from galaxray.training.builtin_tasks import RECIPES, ModelName, SkyTask, make_task
from galaxray.training.dataset import SkyDataset, open_dataset
from galaxray.training.loop import LoopConfig, Trainer
from galaxray.training.program import run_program
from galaxray.training.task import Report

NOT_FIT_FOR = (
    "trained on synthetic images only: not for numbers about real galaxies",
    "cutouts about 6.5 effective radii wide",
    "artifacts, mergers and rings of real surveys were not seen",
)
"""Warnings on every card."""


class Arguments(BaseSettings):
    """Train one of the models that come with galaxray, on the synthetic sky. Defaults are the model's recipe."""

    model_config = SettingsConfigDict(cli_kebab_case=True, env_prefix="GALAXRAY_TRAIN_", use_attribute_docstrings=True)

    model: ModelName
    """What to train."""
    train: Path = Path("data/sky-train")
    """Data set to train on (make_dataset.py)."""
    validation: Path = Path("data/sky-validation")
    """Data set that is scored after each epoch."""
    output: Path = Path("data/models")
    """Folder for weights and card; galaxray/models/builtin for those of the package."""
    start_from: str | None = None
    """Model to start from, a path or ``builtin:NAME``, instead of random weights."""
    threads: int | None = None
    """Threads of torch; as many as cores if left out."""
    epochs: int | None = None
    """Passes through the training images."""
    batch_size: int | None = None
    """Images per step."""
    learning_rate: float | None = None
    """Peak of the one-cycle schedule."""
    seed: int | None = None
    """Of the initial weights, the order of the images and their augmentation."""

    def cli_cmd(self) -> None:
        """Train, with progress, and write the model."""
        if self.threads:
            torch.set_num_threads(self.threads)
        given = self.model_dump(include=set(LoopConfig.model_fields), exclude_none=True)
        config = LoopConfig(**(RECIPES[self.model].model_dump() | given))
        train, validation = open_dataset(self.train), open_dataset(self.validation)
        task = make_task(self.model, train, validation, config.seed)
        if self.start_from:
            task.network.load_state_dict(load_model(resolve(self.start_from))[0].state_dict())
        started = time.monotonic()
        trainer = Trainer(task, config)
        trainer.train(_print)
        model = task.finished(trainer.finished())
        card = _card(self.model, task, config, train, time.monotonic() - started)
        print(f"wrote {save_model(self.output / self.model, model, card, half=True)}")


def _print(kind: str, figures: Report) -> None:
    print(kind, " ".join(f"{name} {value:.5g}" for name, value in figures.items()), flush=True)


def _card(name: str, task: SkyTask, config: LoopConfig, train: SkyDataset, seconds: float) -> dict[str, Any]:
    card: dict[str, Any] = {
        "name": name,
        "task": {"classifier": "tree", "vae": "embedding", "segmenter": "masks"}[name],
        "view": {"size": train.config.view_size, "zoom": 1.0},
        "training": {
            "data": "synthetic sky (galaxray.synthetic)",
            "dataset": train.config.model_dump(),
            "galaxies": len(task.rows),
            "loop": config.model_dump(),
            "hours": round(seconds / 3600, 2),
            "date": time.strftime("%Y-%m-%d"),
        },
        "not_fit_for": list(NOT_FIT_FOR),
    }
    return card | task.description


if __name__ == "__main__":
    run_program(Arguments)
