"""Finetune an encoder on labelled images. ``--help`` says how."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # only the library is installed, not the programs

from pydantic import Field

from galaxray.settings import ProgramSettings, clean_help
from galaxray.training.finetune import FinetuneSettings, finetune, require_trainable
from galaxray.training.program import run_training
from training.ray_workers import WorkerSettings, train_on_workers
from training.say import say


class FinetuneProgram(FinetuneSettings, WorkerSettings, ProgramSettings):
    """Finetune an encoder on labelled images: votes on a decision tree, classes, or numbers.

    The head is trained first, then the encoder's blocks too, each slower than the one above it. Killed, and run again
    with the same command, it goes on from its last checkpoint; on CPUs it ends with the weights of an undisturbed
    training.

    For example:
      pipelines/fetch_cutouts.py --catalog votes.csv --output shards --tree gz_decals_5
      finetune.py --data shards --output my_model --task tree --tree gz_decals_5
      finetune.py --data shards --output rings --task classes --column ring
      finetune.py --data shards --output bars --task classes --rules barred="bar >= 0.5" --rules plain="bar == 0"
      finetune.py --data gz1 --output gz1_model --task regression --unit_interval --targets P_EL P_CW P_ACW
      finetune.py ... --num_workers 4          four processes of Ray Train, with a GPU each where there are any

    Then:
      evaluate.py --model my_model/model --data shards
      inference.py --model my_model/model 587727178986356823 image.jpg
      pipelines/annotate_catalog.py ... --classifier.weights my_model/model.safetensors

    Exit status: 0 done; 2 bad input or settings; 1 any other failure.
    """

    config: str | None = Field(None, description="Recipe (TOML) with these same keys; flags win over it.")

    model_config = ProgramSettings.model_config


clean_help(FinetuneProgram)


def run(program: FinetuneProgram) -> None:
    """Train, with progress, and say where the model is."""
    settings = FinetuneSettings(**program.model_dump(include=set(FinetuneSettings.model_fields)))
    workers = WorkerSettings(**program.model_dump(include=set(WorkerSettings.model_fields)))
    if workers.num_workers:
        require_trainable(settings)
    print(f"model:   {train_on_workers(finetune, settings, workers, say)}")


if __name__ == "__main__":
    sys.exit(run_training(FinetuneProgram, run, program=Path(__file__).name))
