"""Score a model on labelled images that it was not trained on. ``--help`` says how."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # only the library is installed, not the programs

import json
import shlex
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from galaxray import __version__
from galaxray.config import ClassifierConfig
from galaxray.display import public_settings
from galaxray.errors import ConfigError
from galaxray.models.load import load_classifier
from galaxray.models.weights import read_card, resolve
from galaxray.report.evaluation_page import figures_in_words, markdown, page, table_of_parts
from galaxray.report.evaluation_plots import draw_plots
from galaxray.report.model_card import complete_card
from galaxray.settings import ProgramSettings, clean_help
from galaxray.storage_errors import storage_errors
from galaxray.training.evaluation import as_json
from galaxray.training.evaluation.classifiers import Judged, join, judge, metrics_of, spec_of
from galaxray.training.evaluation.held_out import HeldOut, held_out
from galaxray.training.labels import LabelSpec
from galaxray.training.program import run_training
from galaxray.training.shards import Shards, open_shards

REPORT_EVERY_S = 5.0
Cards = dict[str, Mapping[str, Any]]


class EvaluateProgram(LabelSpec, ProgramSettings):
    """Score a model on labelled images that it was not trained on: figures with errors, plots, the model's card.

    Writes OUTPUT/metrics.json, OUTPUT/README.md and plots (PNG). A model is not scored on galaxies that its card says
    it was trained on. What each figure means: docs/evaluation.md.

    For example:
      evaluate.py --model out/model --data shards --update_card
      evaluate.py --model out1/model,out2/model --data shards --output both    an ensemble
      evaluate.py --model out/model --data shards --fold 2 --folds 5           of a cross-validation
      evaluate.py --model cv*/model.safetensors --data shards --out_of_fold --output cv
      evaluate.py --model FinetuneableZoobotTree.ckpt --data shards --passes 5

    Exit status: 0 done; 2 bad input or settings; 1 any other failure.
    """

    config: str | None = Field(None, description="Recipe (TOML) with these same keys; flags win over it.")
    model: Annotated[tuple[str, ...], Field(min_length=1)]
    """Model file or its stem, builtin:NAME, or a Zoobot checkpoint; several make an ensemble."""
    data: str
    """Data set of labelled images, made by pipelines/fetch_cutouts.py: a folder, or s3://."""
    output: Path | None = None
    """Folder for figures, plots and page; MODEL.evaluation beside the model if left out."""
    split: str = "test"
    """Split of the data set: test, val or train."""
    fold: Annotated[int, Field(ge=0)] | None = None
    """Instead of a split, the galaxies that this fold of a cross-validation leaves out."""
    folds: Annotated[int, Field(ge=3)] = 5
    """Number of folds, where one is named."""
    out_of_fold: bool = False
    """The models are those of a cross-validation: each is scored on the fold that its card says it left out, and the
    figures are of all galaxies together."""
    where: str | None = None
    """Only galaxies that fulfil a condition, "T >= 1 and T <= 7"; that of the model's card if left out, "" for all."""
    passes: Annotated[int, Field(gt=0)] = 1
    """Monte Carlo dropout passes per model."""
    orientations: Literal[1, 2, 4, 8] = 1
    """Look at each galaxy in so many orientations."""
    min_votes: Annotated[int, Field(gt=0)] = 10
    """Votes on a question from which fractions are compared (trees)."""
    replicates: Annotated[int, Field(ge=2)] = 200
    """Drawings of the bootstrap behind the standard errors."""
    seed: int = 0
    """Of the bootstrap and of dropout."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes a GPU if there is one; cpu, cuda."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto`` is bf16 where the hardware has it; fp32, bf16."""
    cache: Path = Path("~/.cache/galaxray/pixels")
    """Where decoded images are kept, on a local disk."""
    allow_training_split: bool = False
    """Also score on galaxies that the model was trained on."""
    update_card: bool = False
    """Write the figures into the model's JSON card, and the card in Markdown beside it."""

    model_config = ProgramSettings.model_config

    def run(self) -> None:
        """Predict, score, write, print."""
        output = self._output()
        cards = {ref: card_of(ref) for ref in self.model}
        shards = open_shards(self.data)
        groups = self._groups(shards, cards)
        judged = join([self._judge(refs, held, cards[refs[0]]) for refs, held in groups])
        name = groups[0][1].name if len(groups) == 1 else f"{len(groups)} folds, each left out by its model,"
        metrics = {
            "task": judged.task,
            "split": name,
            "galaxies": len(judged),
            "unpredicted": judged.unpredicted,
            "data": {"folder": self.data, "digest": shards.digest},
            "models": {ref: card.get("sha256") for ref, card in cards.items()},
            "notes": list(dict.fromkeys(note for _, held in groups for note in held.notes)),
            "command": self._command(),
            "date": time.strftime("%Y-%m-%d"),
            "galaxray": __version__,
            **metrics_of(judged, min_votes=self.min_votes, replicates=self.replicates, seed=self.seed),
        }
        self._write(output, metrics, judged)

    def _output(self) -> Path:
        if len(set(self.model)) < len(self.model):
            raise ConfigError("--model names the same model twice")
        if len(self.model) > 1 and self.update_card:
            raise ConfigError("--update-card: figures of several models belong on the card of none")
        if self.output is not None:
            return self.output
        if len(self.model) > 1:
            raise ConfigError("name a folder for the figures of several models with --output")
        ref = self.model[0]
        if ref.startswith(("builtin:", "hf_hub:")):
            return Path(ref.partition(":")[2].replace("/", "-") + ".evaluation")
        return resolve(ref).with_suffix(".evaluation")

    def _groups(self, shards: Shards, cards: Cards) -> list[tuple[tuple[str, ...], HeldOut]]:
        """Models that are scored together, and on what."""
        allow = self.allow_training_split
        if not self.out_of_fold:
            where = self._where(cards[self.model[0]])
            place: dict[str, Any] = {"split": self.split, "fold": self.fold, "folds": self.folds}
            return [(self.model, held_out(shards, cards, **place, where=where, allow_training=allow))]
        groups: list[tuple[tuple[str, ...], HeldOut]] = []
        for ref, card in cards.items():
            training = card.get("training")
            fold, folds = (training.get(key) if isinstance(training, Mapping) else None for key in ("fold", "folds"))
            if not isinstance(fold, int) or not isinstance(folds, int):
                raise ConfigError(f"the card of {ref} does not say which fold was left out: no --out-of-fold with it")
            held = held_out(shards, {ref: card}, fold=fold, folds=folds, where=self._where(card), allow_training=allow)
            groups.append(((ref,), held))
        return groups

    def _where(self, card: Mapping[str, Any]) -> str | None:
        training = card.get("training")
        known = training.get("where") if isinstance(training, Mapping) else None
        return known if self.where is None else self.where

    def _judge(self, refs: tuple[str, ...], held: HeldOut, card: Mapping[str, Any]) -> Judged:
        given = LabelSpec(**self.model_dump(include=set(LabelSpec.model_fields)))
        labels = self.classes or self.targets or None
        how = self.model_dump(include={"passes", "orientations", "tree", "seed"})
        config = ClassifierConfig(weights=refs, labels=labels, **how)
        model = load_classifier(refs, config, self.device, self.precision)
        started = last = time.monotonic()

        def say(done: int) -> None:
            nonlocal last
            if time.monotonic() - last > REPORT_EVERY_S:
                last = time.monotonic()
                rate = done / (last - started)
                print(f"{done:,} of {len(held.images):,} galaxies, {rate:.0f} a second", file=sys.stderr, flush=True)

        return judge(model, held.images, spec_of(card, given), self.cache, say)

    def _command(self) -> str:
        given = public_settings(self.model_dump(mode="json", exclude_defaults=True, exclude={"cache", "config"}))
        words = ["python", "training/evaluate.py"]
        for name, value in given.items():
            flag = f"--{name.replace('_', '-')}"
            if isinstance(value, dict):
                words += [word for key, item in value.items() for word in (flag, f"{key}={item}")]
            else:
                words += [flag] if value is True else [flag, ",".join(value) if isinstance(value, list) else str(value)]
        return shlex.join(words)

    def _write(self, output: Path, metrics: Mapping[str, Any], judged: Judged) -> None:
        with storage_errors(str(output)):
            output.mkdir(parents=True, exist_ok=True)
            plots = draw_plots(metrics, judged, output)
            record = json.dumps(public_settings(as_json(metrics)), indent=1, allow_nan=False)
            (output / "metrics.json").write_text(record + "\n", encoding="utf-8")
            title = f"{', '.join(self.model)} on {metrics['split']}"
            (output / "README.md").write_text(page(metrics, plots, title), encoding="utf-8")
        for note in metrics["notes"]:
            print(f"note: {note}")
        words = figures_in_words(metrics)
        width = max(map(len, words))
        print("\n".join(f"{name:{width}s}  {value}" for name, value in words.items()))
        print("\n" + "\n".join(markdown(table_of_parts(metrics))) + "\n")
        print(f"figures: {output}/README.md, metrics.json")
        if self.update_card:
            with storage_errors(str(output)):
                print("card:    {}, {}".format(*complete_card(resolve(self.model[0]), metrics)))


clean_help(EvaluateProgram)


def card_of(ref: str) -> Mapping[str, Any]:
    """Card of a model; empty where its file has none, as Zoobot's checkpoints.

    Raises
    ------
    ConfigError
        If it is a model that is not scored by this program.
    """
    path = resolve(ref)
    card = read_card(path) if path.suffix == ".safetensors" else {}
    if card.get("kind", "classifier") != "classifier":
        raise ConfigError(f"{ref} is a {card['kind']}; this program scores classifiers: votes, classes and numbers")
    return card


if __name__ == "__main__":
    sys.exit(run_training(EvaluateProgram, EvaluateProgram.run, program=Path(__file__).name))
