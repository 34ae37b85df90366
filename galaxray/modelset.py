"""The models of a run: what they are, and the stages that they become.

torch is imported only where a model is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from galaxray.config import RunConfig
from galaxray.images import View
from galaxray.stages import Classify, Embed, Segment, Stage
from galaxray.trees import DecisionTree

__all__ = ["ModelSet", "describe_models", "model_stages", "settle_precision"]


_MODELS = frozenset({"classify", "embed", "segment"})


@dataclass(frozen=True, kw_only=True)
class ModelSet:
    """What the models of a run are.

    Attributes
    ----------
    views : tuple of View
        What they look at; an image is decoded once for all.
    record : dict
        What decides their predictions, for ``run.json``.
    lines : tuple of str
        A line per model for a person.
    """

    views: tuple[View, ...]
    record: dict[str, Any]
    lines: tuple[str, ...]


def settle_precision(config: RunConfig, device: str) -> RunConfig:
    """Replace the precision ``auto`` by what it means on the device of the models.

    So all workers compute alike, ``run.json`` says how, and a run is not continued otherwise.

    Parameters
    ----------
    config : RunConfig
    device : {"cpu", "cuda"}
        Where the models run; see `galaxray.models.choose_precision`.
    """
    if config.compute.precision != "auto" or not _MODELS & set(config.stages):
        return config
    from galaxray.models import choose_precision  # loads torch

    compute = config.compute.model_copy(update={"precision": choose_precision(device)})
    return config.model_copy(update={"compute": compute})


def describe_models(config: RunConfig) -> ModelSet:
    """Load the models of a run once, so that a bad file is found before anything starts.

    Raises
    ------
    WeightsError, ConfigError
        If a model cannot be loaded, or cannot do what is asked of it.
    """
    views: list[View] = []
    tree: DecisionTree | None = None
    record: dict[str, Any] = {}
    lines: list[str] = []
    for name, stage in model_stages(config, config.stages, "cpu", 1).items():
        match stage:
            case Classify(classifier=model):
                tree = model.tree
                name_of_tree = tree.name if tree else None
                record["classifier"] = {"digest": model.digest, "task": model.task, "tree": name_of_tree}
                passes = f", {config.classifier.passes} passes" if config.classifier.passes > 1 else ""
                outputs = f"{name_of_tree or model.task}, {len(model.labels)} outputs{passes}"
                what = f"{', '.join(config.classifier.weights)} ({outputs})"
            case Embed(embedder=model):
                record["embedder"] = {"digest": model.digest, "dim": model.dim}
                what = f"{config.embedder.weights} ({model.dim} dimensions)"
            case Segment(segmenter=model):
                record["segmenter"] = {"digest": model.digest, "zoom": model.view.zoom}
                what = f"{config.segmenter.weights} ({_segmented(config, tree)})"
        views.append(model.view)
        lines.append(f"{name:<10} {what}, at {model.view.name}")
    return ModelSet(views=tuple(dict.fromkeys(views)), record=record, lines=tuple(lines))


def _segmented(config: RunConfig, tree: DecisionTree | None) -> str:
    """Say which galaxies are segmented."""
    asks = {question.stem for question in tree.questions} if tree else set()
    if config.segmenter.where == "all" or asks & {"smooth-or-featured", "disk-edge-on"}:
        return config.segmenter.where
    return "every galaxy: no votes here tell which are face-on and featured"


def model_stages(config: RunConfig, names: Sequence[str], device: str, num_threads: int) -> dict[str, Stage]:
    """Load models and make their stages, where they are to run.

    Parameters
    ----------
    config : RunConfig
    names : sequence of str
        Those of ``classify``, ``embed`` and ``segment`` that are wanted; other names are passed over.
    device : {"auto", "cpu", "cuda"}
        ``auto`` is the GPU that torch finds here; if it finds none the CPU, with a warning.
    num_threads : int
        Threads of each model on a CPU.
    """
    if not _MODELS & set(names):
        return {}
    import torch

    from galaxray import models

    where = (device, config.compute.precision, config.compute.batch_size)
    models.set_num_threads(num_threads)
    if device == "auto" and not torch.cuda.is_available():
        logging.getLogger(__name__).warning("torch finds no GPU here: the models run on the CPU")
    stages: dict[str, Stage] = {}
    if "classify" in names:
        classifier = models.load_classifier(config.classifier.weights, config.classifier, *where)
        stages["classify"] = Classify(classifier)
    if "embed" in names:
        stages["embed"] = Embed(models.load_embedder(config.embedder.weights, *where))
    if "segment" in names:
        segmenter = models.load_segmenter(config.segmenter.weights, *where)
        stages["segment"] = Segment(segmenter, config.segmenter)
    return stages
