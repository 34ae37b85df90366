"""Train a variational autoencoder, or several to find a good latent size. ``--help`` says how."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # only the library is installed, not the programs

import json
import shlex
import time
from typing import Annotated, Any

from pydantic import Field

from galaxray import __version__
from galaxray.display import public_settings
from galaxray.errors import ConfigError
from galaxray.models.weights import read_card
from galaxray.report.evaluation_page import markdown
from galaxray.report.latent_search import draw_search, in_words, search_page, search_table
from galaxray.settings import ProgramSettings, clean_help
from galaxray.storage import LocalFolder
from galaxray.storage_errors import storage_errors
from galaxray.training.latent_search import Searched, compare, folder_of, require_sizes
from galaxray.training.program import run_training
from galaxray.training.task import Report
from galaxray.training.train_vae import SETTINGS, VAESettings, open_data, train_vae
from galaxray.training.training_folder import device_named
from training.ray_workers import WorkerSettings, train_on_workers
from training.say import say


class TrainVAEProgram(VAESettings, WorkerSettings, ProgramSettings):
    """Train a convolutional variational autoencoder: its latent means are the embedding of a galaxy.

    It learns from images alone. The loss is the squared error of the reconstruction, summed over pixels, and BETA times
    the Kullback-Leibler divergence of the latent distribution from the unit Gaussian; BETA grows from 0 over the first
    part of the training. Killed, and run again with the same command, it goes on from its last checkpoint; on CPUs it
    ends with the weights of an undisturbed training.

    With --latent_dims one autoencoder of each size is trained, in OUTPUT/latent-006 and so on, and compared on held-out
    galaxies: reconstruction beside as many principal components, active dimensions, and, with --column or --rules,
    what simple classifiers tell from the latents. Sizes that are finished are not trained again.

    For example:
      pipelines/fetch_cutouts.py --catalog galaxies.csv --output shards --labels none
      train_vae.py --data shards --output vae --latent_dim 32
      train_vae.py --data shards --output vae128 --size 128 --latent_dim 40 --num_workers 4
      train_vae.py --data shards --output search --latent_dims 6 8 16 32 40
      train_vae.py ... --rules early="T <= -1" --rules spiral="1 <= T <= 7"    tests the latents on these classes
      train_vae.py ... --num_trials_at_once 4      four sizes at a time, by Ray Tune, a GPU each where there are any

    Then:
      pipelines/annotate_catalog.py ... --embedder.weights vae/model.safetensors

    Exit status: 0 done; 2 bad input or settings; 1 any other failure.
    """

    config: str | None = Field(None, description="Recipe (TOML) with these same keys; flags win over it.")
    latent_dims: tuple[int, ...] = ()
    """Latent sizes to compare, each trained by itself; --latent_dim does not count then."""
    num_trials_at_once: Annotated[int, Field(gt=0)] = 1
    """Sizes that are trained at the same time: 1 one after the other, without Ray; more as trials of Ray Tune."""

    model_config = ProgramSettings.model_config


clean_help(TrainVAEProgram)


def run(program: TrainVAEProgram) -> None:
    """Train, with progress, compare on held-out galaxies, and say where everything is."""
    settings = VAESettings(**program.model_dump(include=set(VAESettings.model_fields)))
    workers = WorkerSettings(**program.model_dump(include=set(WorkerSettings.model_fields)))
    sizes = program.latent_dims
    _require_sound(program, settings)
    if sizes:
        _train_sizes(settings, sizes, program.num_trials_at_once, workers)
        models = {size: folder_of(settings.output, size) / "model.safetensors" for size in sizes}
    else:
        models = {settings.latent_dim: train_on_workers(train_vae, settings, workers, say)}
    searched = compare(settings, models)
    for size, path in models.items():
        _complete_card(path, searched, size)
    print("\n" + "\n".join(markdown(search_table(searched))))
    if sizes:
        _write_search(program, searched)
        print(f"{in_words(searched)}\nsearch:  {settings.output}/README.md, search.json")
    else:
        print(f"model:   {models[settings.latent_dim]}")


def _require_sound(program: TrainVAEProgram, settings: VAESettings) -> None:
    """Refuse, before anything is trained, what cannot be trained or compared.

    Raises
    ------
    UsageError
    """
    require_sizes(program.latent_dims)
    if program.num_trials_at_once > 1 and not program.latent_dims:
        raise ConfigError("--num-trials-at-once: name the sizes with --latent-dims")
    if program.num_trials_at_once > 1 and program.num_workers:
        raise ConfigError("--num-workers shares one training out, --num-trials-at-once several: give one or the other")
    if program.latent_dims and (settings.output / SETTINGS).exists():
        raise ConfigError(f"{settings.output} holds the training of one size: name another --output for a search")
    _ = settings.view, device_named(settings.device) if not program.num_workers else None
    open_data(settings)


def _train_sizes(settings: VAESettings, sizes: tuple[int, ...], at_once: int, workers: WorkerSettings) -> None:
    if at_once > 1:
        from training.tune_trials import train_sizes

        train_sizes(settings, sizes, at_once, workers, _say_of_size)
        return
    for size in sizes:
        print(f"latent size {size}", flush=True)
        own = {"latent_dim": size, "output": folder_of(settings.output, size)}
        train_on_workers(train_vae, settings.model_copy(update=own), workers, say)


def _say_of_size(kind: str, figures: Report) -> None:
    others = {name: value for name, value in figures.items() if name != "latent_dim"}
    print(f"latent size {figures['latent_dim']:.0f}: ", end="")
    say(kind, others)


def _complete_card(path: Path, searched: Searched, size: int) -> None:
    """Write the figures of a model into its card."""
    held_out = {"split": searched.split, "galaxies": searched.galaxies["held_out"], **searched.sizes[size]}
    card = read_card(path) | {"metrics": held_out}
    LocalFolder(str(path.parent)).write("model.json", (json.dumps(card, indent=2) + "\n").encode())


def _write_search(program: TrainVAEProgram, searched: Searched) -> None:
    output, command, date = program.output, _command(program), time.strftime("%Y-%m-%d")
    record: dict[str, Any] = {
        "sizes": {str(size): figures for size, figures in searched.sizes.items()},
        "suggested": searched.suggested,
        "models": {str(size): f"{folder_of(Path(), size)}/model.safetensors" for size in searched.sizes},
        "split": searched.split,
        "galaxies": searched.galaxies,
        "classes": searched.classes,
        "data": {"folder": program.data, "digest": searched.digest},
        "command": command,
        "date": date,
        "galaxray": __version__,
    }
    folder = LocalFolder(str(output))
    with storage_errors(str(output)):
        plots = draw_search(searched, output)
        title = f"Latent sizes {', '.join(map(str, searched.sizes))}"
        text = search_page(searched, plots, title=title, data=program.data, command=command, date=date)
        folder.write("README.md", text.encode())
        folder.write("search.json", (json.dumps(public_settings(record), indent=1) + "\n").encode())


def _command(program: TrainVAEProgram) -> str:
    """The command line, with the settings that are not those by default."""
    given = public_settings(program.model_dump(mode="json", exclude_defaults=True, exclude={"cache", "config"}))
    words = ["python", "training/train_vae.py"]
    for name, value in given.items():
        words += _flag(f"--{name.replace('_', '-')}", value)
    return shlex.join(words)


def _flag(flag: str, value: Any) -> list[str]:
    if isinstance(value, dict) and flag == "--rules":
        return [word for key, item in value.items() for word in (flag, f"{key}={item}")]
    if isinstance(value, dict):
        return [word for key, item in value.items() for word in _flag(f"{flag}.{key}", item)]
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    return [flag, *map(str, value)] if isinstance(value, list) else [flag, str(value)]


if __name__ == "__main__":
    sys.exit(run_training(TrainVAEProgram, run, program=Path(__file__).name))
