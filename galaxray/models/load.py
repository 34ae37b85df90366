"""From the name of a model to an object that annotates images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from galaxray.config import ClassifierConfig
from galaxray.errors import ConfigError, WeightsError
from galaxray.images import View
from galaxray.models.checkpoint import load_checkpoint
from galaxray.models.classifier import ClassifierNet, Task
from galaxray.models.engine import Engine
from galaxray.models.predictors import Classifier, Embedder, Member, Segmenter
from galaxray.models.unet import UNet
from galaxray.models.vae import VAE
from galaxray.models.weights import load_model, resolve
from galaxray.schema import is_reserved
from galaxray.trees import DecisionTree, load_tree

__all__ = ["load_classifier", "load_embedder", "load_segmenter", "view_of"]

ZOOBOT_SIZE, ZOOBOT_ZOOM = 224, 1.2


def load_classifier(
    refs: Sequence[str],
    config: ClassifierConfig,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
) -> Classifier:
    """Load a classifier, or an ensemble of several.

    Parameters
    ----------
    refs : sequence of str
        Model files: Zoobot's ``.ckpt``, ours, ``builtin:NAME`` or ``hf_hub:OWNER/NAME``.
    config : ClassifierConfig
    device, precision, batch_size
        See `galaxray.models.engine.Engine`.

    Raises
    ------
    WeightsError
        If a file is missing, damaged, not trusted or of another kind.
    ConfigError
        If the members' outputs differ, labels do not fit, or several passes are asked of a model without dropout.
    """
    if not refs:
        raise ConfigError("classifier.weights names no model")
    members = [_load_member(ref, config) for ref in refs]
    first = members[0]
    for member in members[1:]:
        if (member.labels, member.view, member.model.head.task) != (first.labels, first.view, first.model.head.task):
            raise ConfigError(f"{first.ref} and {member.ref} make no ensemble: their outputs or views differ")
    return Classifier(members, config, Engine(device, precision, batch_size))


def load_embedder(ref: str, device: str = "auto", precision: str = "auto", batch_size: int | None = None) -> Embedder:
    """Load a variational autoencoder of ours.

    Raises
    ------
    WeightsError
        If the file is missing, damaged or of another kind.
    """
    module, card = load_model(resolve(ref), "vae")
    assert isinstance(module, VAE)
    return Embedder(module, view_of(card), card["sha256"], Engine(device, precision, batch_size))


def load_segmenter(ref: str, device: str = "auto", precision: str = "auto", batch_size: int | None = None) -> Segmenter:
    """Load a UNet of ours.

    Raises
    ------
    WeightsError
        If the file is missing, damaged or of another kind.
    """
    module, card = load_model(resolve(ref), "unet")
    assert isinstance(module, UNet)
    return Segmenter(module, view_of(card), card["sha256"], Engine(device, precision, batch_size))


def _load_member(ref: str, config: ClassifierConfig) -> Member:
    path = resolve(ref)
    if path.suffix == ".safetensors":
        module, card = load_model(path, "classifier")
        assert isinstance(module, ClassifierNet)
        view, digest, labels, always_stochastic = view_of(card), str(card["sha256"]), card.get("labels"), False
        if labels is not None and not (isinstance(labels, list) and all(isinstance(name, str) for name in labels)):
            raise WeightsError(f"the card of {path} holds no valid labels: a list of names")
        tree = _read_tree(path, card.get("tree"))
    else:
        checkpoint = load_checkpoint(path, config.arch)
        module, tree, always_stochastic = checkpoint.model, checkpoint.tree, checkpoint.always_stochastic
        view = View(ZOOBOT_SIZE, ZOOBOT_ZOOM, greyscale=module.architecture["in_chans"] == 1)
        digest = _sha256(path)
        labels = [checkpoint.target] if module.head.task == "regression" and checkpoint.target else None
    view = _override(view, config)
    task, outputs = module.head.task, module.head.linear.out_features
    if task == "tree":
        tree = _choose_tree(ref, tree, config)
        labels = tree.labels
    else:
        tree = None
        labels = (
            config.labels or labels or [f"{'class' if task == 'classes' else 'target'}_{i}" for i in range(outputs)]
        )
    if len(labels) != outputs:
        where = f"tree {tree.name}" if tree else "classifier.labels"
        raise ConfigError(f"{ref} has {outputs} outputs, {where} {len(labels)}")
    _check_labels(ref, tuple(labels), task)
    return Member(ref, digest, module, view, tree, tuple(labels), always_stochastic)


def _read_tree(path: Path, named: Any) -> DecisionTree | None:
    """Tree on a card: its name, or the tree itself."""
    if named is None:
        return None
    try:
        return DecisionTree.from_dict(named) if isinstance(named, dict) else load_tree(str(named))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"the card of {path} holds no valid decision tree: {error!r}") from None


def _choose_tree(ref: str, tree: DecisionTree | None, config: ClassifierConfig) -> DecisionTree:
    """Tree of the configuration, or of the model file, in the version that is asked for."""
    corrected = config.tree_version == "corrected"
    if config.tree:
        tree = load_tree(config.tree, corrected=corrected)
    elif tree is None:
        raise ConfigError(f"{ref} does not name its decision tree: give it as classifier.tree")
    elif corrected:
        labels = tree.labels
        tree = load_tree(tree.name, corrected=True)
        if tree.labels != labels:
            raise ConfigError(f"{ref} has another tree than {tree.name}: leave classifier.tree_version at published")
    if faults := replace(tree, dangling=()).validate():  # what is said of other questions does no harm
        raise WeightsError(f"{ref} has no valid decision tree: {'; '.join(faults)}")
    return tree


def _check_labels(ref: str, labels: Sequence[str], task: Task) -> None:
    """Refuse names that would make two columns one."""
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ConfigError(f"{ref} has two outputs called {twice[0]!r}: name them apart with --classifier.labels")
    taken = [label for label in labels if task == "regression" and (not label or is_reserved(label))]
    if taken:
        raise ConfigError(
            f"{ref} calls its target {taken[0]!r}, which is another column of the table: "
            "give it a name with --classifier.labels, e.g. --classifier.labels stellar_mass"
        )


def _override(view: View, config: ClassifierConfig) -> View:
    """View of the model, with what the configuration wants otherwise."""
    try:
        return replace(view, size=config.view_size or view.size, zoom=config.view_zoom or view.zoom)
    except ValueError as error:
        raise ConfigError(f"classifier.view_zoom: {error}") from None


def view_of(card: Mapping[str, Any]) -> View:
    """View that a model's card asks for; WeightsError if it has no valid one."""
    try:
        return View(**card["view"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"the model's card has no valid view: {error}") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
