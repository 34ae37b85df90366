"""Zoobot's Lightning checkpoints, read without zoobot or Lightning.

A ``.ckpt`` is a pickle. It is read by torch's restricted unpickler, which builds nothing but tensors, containers and
the few plain classes named here; a file that asks for anything else is refused. ``FinetuneableZoobotTree``,
``...Classifier``, ``...Regressor`` and ``ZoobotTree`` of zoobot 2 are understood
(``zoobot/pytorch/training/finetune.py``, ``zoobot/pytorch/estimators/define_model.py``).
"""

from __future__ import annotations

import importlib
import logging
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

from galaxray.errors import ConfigError, UsageError, WeightsError
from galaxray.models.classifier import FORBIDDEN_OPTIONS, ClassifierNet, Task, is_architecture
from galaxray.models.modest import MAX_OUTPUTS, require_modest
from galaxray.models.weights import first_line
from galaxray.trees import DecisionTree, tree_from_labels

__all__ = ["Checkpoint", "load_checkpoint"]

logger = logging.getLogger(__name__)

ZOO = {
    "stages.0.blocks.0.conv_dw.weight": (
        *(f"convnext_{size}" for size in ("atto", "femto", "pico", "nano", "tiny", "small", "base", "large")),
    ),
    "conv_stem.weight": (
        *(f"efficientnet_b{number}" for number in range(8)),
        *(f"efficientnetv2_{size}" for size in "sml"),
    ),
    "layer1.0.conv1.weight": tuple(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    "stem.conv1.weight": (
        *(f"maxvit_{size}_rw_224" for size in ("rmlp_small", "rmlp_base", "tiny", "small", "base")),
        *(f"maxvit_{size}_tf_224" for size in ("tiny", "small", "base", "large")),
    ),
    "cls_token": tuple(f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")),
}
"""Architectures of Zoobot's model zoo, by a parameter that only their family has: a checkpoint made with ``encoder=``
does not name its own, and is recognised by the shapes of its weights."""


_multiarray: Any = importlib.import_module("numpy._core.multiarray")  # what pickles name, and no stub describes


class _Plain:
    """Stands in for a class of the file: holds its attributes, and has no behaviour."""


class _Schema(_Plain):
    question_answer_pairs: Mapping[str, list[str]]
    dependencies: Mapping[str, str | None]


class _Question(_Plain):
    pass


class _Answer(_Plain):
    pass


class _AttributeDict(dict[str, Any]):
    """Lightning's dictionary of hyper-parameters."""


SAFE_GLOBALS: list[Any] = [
    (_Schema, "zoobot.shared.schemas.Schema"),
    (_Question, "zoobot.shared.schemas.Question"),
    (_Answer, "zoobot.shared.schemas.Answer"),
    (_AttributeDict, "lightning.fabric.utilities.data.AttributeDict"),
    (_AttributeDict, "lightning_fabric.utilities.data.AttributeDict"),
    (_AttributeDict, "pytorch_lightning.utilities.parsing.AttributeDict"),
    # class weights may be a numpy array
    np.ndarray,
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
    np.dtypes.Int64DType,
    (_multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
    (_multiarray._reconstruct, "numpy._core.multiarray._reconstruct"),
    (_multiarray.scalar, "numpy.core.multiarray.scalar"),
    (_multiarray.scalar, "numpy._core.multiarray.scalar"),
]


@dataclass(frozen=True)
class Checkpoint:
    """A model from a checkpoint, and what the file says of its outputs."""

    model: ClassifierNet
    """In evaluation mode, float32, on the CPU."""
    tree: DecisionTree | None
    """Of a tree model, as the file has it."""
    target: str | None
    """Name of the label column that it was trained on."""
    always_stochastic: bool
    """Whether dropout belongs to every prediction (``test_time_dropout``)."""


def load_checkpoint(path: Path, arch: str | None = None) -> Checkpoint:
    """Read a Zoobot checkpoint.

    Parameters
    ----------
    path : Path
    arch : str, optional
        timm architecture, where the file does not name it and it is not one of Zoobot's model zoo.

    Raises
    ------
    WeightsError
        If the file is damaged, is not Zoobot's, asks for code to be run, or if its architecture is not known.
    """
    content = _unpickle(path)
    try:
        state: Mapping[str, Tensor] = content["state_dict"]
        hparams: Mapping[str, Any] = content["hyper_parameters"]
        encoder = _part(state, "encoder.")
        head = _part(state, "head.")
        task: Task = "tree" if "1.0.weight" in head else "classes" if "num_classes" in hparams else "regression"
        prefix = "1.0" if task == "tree" else "linear"
        weight, bias = head[f"{prefix}.weight"], head[f"{prefix}.bias"]
        left_out = FORBIDDEN_OPTIONS | {"in_chans", "num_classes"}  # the weights tell these better
        options = {name: value for name, value in (hparams.get("timm_kwargs") or {}).items() if name not in left_out}
    except (KeyError, TypeError, AttributeError):
        raise WeightsError(f"{path} is not a checkpoint of Zoobot's tree, classifier or regressor") from None
    if not encoder:
        raise WeightsError(f"{path} holds no encoder")
    try:
        if len(bias) > MAX_OUTPUTS:
            raise ValueError(f"{len(bias)} outputs")
        require_modest(options)
        model = ClassifierNet(
            arch=_find_arch(path, hparams, encoder, options, arch),
            outputs=len(bias),
            task=task,
            dropout=float(hparams.get("head_dropout_prob", hparams.get("dropout_rate", 0.0))),
            unit_interval=bool(hparams.get("unit_interval", False)),
            in_chans=_in_chans(encoder),
            encoder_options=options,
        )
    except UsageError:
        raise
    except Exception as error:  # whatever timm and torch make of what the file holds
        raise WeightsError(f"{path} does not fit together as a model: {first_line(error)}") from None
    try:
        model.encoder.load_state_dict(encoder)
        model.head.linear.load_state_dict({"weight": weight, "bias": bias})
    except RuntimeError as error:
        raise WeightsError(
            f"the weights of {path} do not fit {model.architecture['arch']}: {first_line(error)}"
        ) from None
    return Checkpoint(
        model=model.eval().requires_grad_(False).float(),
        tree=_tree(path, hparams) if task == "tree" else None,
        target=hparams.get("label_col"),
        always_stochastic=bool(hparams.get("test_time_dropout", False)),
    )


def _unpickle(path: Path) -> dict[str, Any]:
    if not zipfile.is_zipfile(path):
        raise WeightsError(f"{path} is no PyTorch checkpoint, or is truncated")
    try:
        _require_stored(path)
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"(?:GLOBAL|global) (\S+\.\S+)", str(error))
        if asked:
            raise WeightsError(
                f"{path} is refused: it asks for {asked[1]}, and whatever a model file asks for could run code"
            ) from None
        raise WeightsError(f"{path} is refused: {first_line(error)}") from None
    except Exception as error:  # whatever the unpickler makes of damage, or of a wish for more memory than there is
        raise WeightsError(f"{path} cannot be read as a checkpoint: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def _require_stored(path: Path) -> None:
    """Refuse a zip archive that unpacks to more than it is: PyTorch never compresses."""
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise ValueError("its parts are larger than the file")


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    # a compiled encoder's names have one more step
    names = ((name, name.removeprefix(prefix).removeprefix("_orig_mod.")) for name in state if name.startswith(prefix))
    return {short: state[name] for name, short in names}


def _in_chans(encoder: Mapping[str, Tensor]) -> int:
    """Channels that the first convolution takes."""
    found = [tensor.shape[1] for tensor in encoder.values() if tensor.ndim == 4]
    if not found:
        raise ValueError("the encoder holds no convolution")
    return int(found[0])


def _find_arch(
    path: Path, hparams: Mapping[str, Any], encoder: Mapping[str, Tensor], options: Mapping[str, Any], arch: str | None
) -> str:
    """Name of the timm architecture: as given, as the file names it, or the one whose weights have these shapes."""
    if arch is not None:
        if not is_architecture(arch):
            raise ConfigError(f"timm has no architecture {arch!r} (classifier.arch)")
        return arch
    # e.g. hf_hub:mwalmsley/zoobot-encoder-greyscale-convnext_nano, or convnext_nano.in12k; never asked of a hub
    named = str(hparams.get("name") or hparams.get("architecture_name") or "")
    candidate = re.split(r"[/:-]", named)[-1].partition(".")[0]
    candidate = {"efficientnet": "efficientnet_b0"}.get(candidate, candidate)  # so named by early versions
    if is_architecture(candidate):
        return candidate
    shapes = {name: tensor.shape for name, tensor in encoder.items()}
    for name in next((family for marker, family in ZOO.items() if marker in encoder), ()):
        if is_architecture(name) and _shapes(name, _in_chans(encoder), options) == shapes:
            logger.info("%s does not name its architecture; by its weights it is %s", path, name)
            return name
    raise WeightsError(f"{path} does not say which timm architecture its encoder is: give it as classifier.arch")


def _shapes(arch: str, in_chans: int, options: Mapping[str, Any]) -> dict[str, torch.Size]:
    with torch.device("meta"):  # shapes only, no memory
        model: nn.Module = timm.create_model(arch, pretrained=False, num_classes=0, in_chans=in_chans, **options)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _tree(path: Path, hparams: Mapping[str, Any]) -> DecisionTree:
    schema = hparams.get("schema", hparams)
    try:
        pairs = schema.question_answer_pairs if isinstance(schema, _Schema) else schema["question_answer_pairs"]
        every = schema.dependencies if isinstance(schema, _Schema) else schema["dependencies"]
        labels = [question + answer for question, answers in pairs.items() for answer in answers]
        # A schema carries the dependencies of all campaigns; those of other campaigns' questions mean nothing here.
        after = {question: every.get(question) for question in pairs}
    except (KeyError, TypeError, AttributeError):
        raise WeightsError(f"{path} holds no schema of questions and answers, so its outputs have no names") from None
    tree: dict[str, Any] = {"question_answer_pairs": pairs, "dependencies": after}
    try:
        known = tree_from_labels(labels)
        tree |= {"name": known.name, "suffix": known.suffix}
    except ConfigError:
        tree["name"] = path.stem
    return DecisionTree.from_dict(tree)
