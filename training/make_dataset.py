"""Draw labelled images of the synthetic sky: what the built-in models are trained and scored on.

    python training/make_dataset.py --output data/sky-train --num 40000 --seed 1
    python training/make_dataset.py --output data/sky-test --num 4000 --seed 3

Every image goes the way it goes in a run: drawn at some size, compressed as JPEG, decoded, resized to the models' view.
Catalogues of different seeds share no galaxy.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict

from galaxray.training.dataset import DatasetConfig, generate
from galaxray.training.program import run_program


class Arguments(BaseSettings, DatasetConfig):
    """Draw labelled images of the synthetic sky."""

    model_config = SettingsConfigDict(
        cli_kebab_case=True, env_prefix="GALAXRAY_DATASET_", use_attribute_docstrings=True
    )

    output: Path = Path("data/sky-train")
    """Folder to write."""
    processes: int = os.cpu_count() or 1
    """Processes that draw at the same time; the result does not depend on it."""

    def cli_cmd(self) -> None:
        """Draw, with progress."""
        config = DatasetConfig(**self.model_dump(include=set(DatasetConfig.model_fields)))
        started = last = time.monotonic()

        def report(done: int, num: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last > 10 or done == num:
                last = now
                rate = done / (now - started)
                print(f"{done}/{num} galaxies, {rate:.0f}/s, {(num - done) / rate:.0f} s left", flush=True)

        dataset = generate(config, self.output, self.processes, report)
        arms, bars = dataset.marked.sum(axis=0)
        print(f"{self.output}: {len(dataset)} galaxies; half of the volunteers mark arms in {arms}, a bar in {bars}")


if __name__ == "__main__":
    run_program(Arguments)
