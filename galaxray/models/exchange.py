"""Our models in formats that other programs run: ONNX, and torch's exported programs (``.pt2``).

A file is only kept if it gives the numbers that our model gives. It takes images of any batch, float32
(N, channels, size, size) in [0, 1] as `galaxray.images.View` cuts them, and holds the model's card.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from galaxray.errors import ConfigError, RunError
from galaxray.models.classifier import ClassifierNet
from galaxray.models.vae import VAE

__all__ = ["CARD_KEY", "TOLERANCE", "check_format", "export_model", "output_names"]

Images = NDArray[np.float32]

CARD_KEY = "galaxray_card"
"""Under which an ONNX file's metadata and a program's extra files hold the card."""
TOLERANCE = 1e-4
"""Largest difference; relative, where a number is larger than 1 (concentrations go up to 101)."""
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export_model(
    module: nn.Module,
    path: Path | str,
    images: Mapping[str, Images],
    card: Mapping[str, Any],
    tolerance: float = TOLERANCE,
) -> dict[str, float]:
    """Write a model, read the file back and compare what both say.

    Parameters
    ----------
    module : ClassifierNet, VAE or UNet
        In evaluation mode: dropout does nothing. Float32, on the CPU.
    path : path
        Ends in ``.onnx`` or ``.pt2``. A file that is there is replaced, if the new one is good.
    images : mapping of str to ndarray of float32, (N, channels, size, size)
        Sets of images to compare on, with their names.
    card : mapping
        Goes into the file as JSON.
    tolerance : float
        See `TOLERANCE`.

    Returns
    -------
    dict of str to float
        Largest difference for each set of images.

    Raises
    ------
    ConfigError
        If the format is not known, or packages for it are missing.
    RunError
        If the file would give other numbers: it is not kept.
    """
    path = Path(path)
    check_format(path)
    write, read = FORMATS[path.suffix]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        aside = Path(folder) / path.name
        # two images: of one, torch would make the batch a constant
        example = torch.zeros(2, *next(iter(images.values())).shape[1:])
        plain = _Tensors(module).eval()
        program = torch.export.export(plain, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        write(program, module, aside, json.dumps(dict(card)))
        exported = read(aside)
        differences = {name: _difference(module, exported, some) for name, some in images.items()}
        for name, difference in differences.items():
            if not difference <= tolerance:  # also NaN
                raise RunError(
                    f"{path} is not kept: on {name} it differs from the model by {difference:.2g}, "
                    f"and {tolerance:g} is allowed"
                )
        aside.replace(path)
    return differences


def check_format(path: Path) -> None:
    """Refuse what `export_model` could not write: ConfigError says why."""
    if path.suffix not in FORMATS:
        raise ConfigError(f"{path} must end in {' or '.join(FORMATS)}, which says the format")
    missing = [name for name in ONNX_PACKAGES if path.suffix == ".onnx" and importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"ONNX needs {', '.join(missing)}: pip install {' '.join(ONNX_PACKAGES)}")


def output_names(module: nn.Module) -> tuple[str, ...]:
    """Names of a model's outputs in an ONNX file."""
    if isinstance(module, ClassifierNet):
        return ({"tree": "concentrations", "classes": "probabilities", "regression": "values"}[module.head.task],)
    return ("reconstruction", "mean", "log_variance") if isinstance(module, VAE) else ("mask_logits",)


class _Tensors(nn.Module):
    """A model whose outputs are tensors: a class of ours in a program could be read nowhere else."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self.module(images)
        return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def _write_onnx(program: torch.export.ExportedProgram, module: nn.Module, path: Path, card: str) -> None:
    names = output_names(module)
    made = torch.onnx.export(program, dynamo=True, input_names=["images"], output_names=names, verbose=False)
    assert made is not None
    made.model.metadata_props[CARD_KEY] = card
    made.save(str(path))


def _read_onnx(path: Path) -> Callable[[Images], list[NDArray[Any]]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Images) -> list[NDArray[Any]]:
        return [np.asarray(output) for output in session.run(None, {"images": images})]

    return run


def _write_program(program: torch.export.ExportedProgram, module: nn.Module, path: Path, card: str) -> None:
    torch.export.save(program, path, extra_files={CARD_KEY: card})


def _read_program(path: Path) -> Callable[[Images], list[NDArray[Any]]]:
    return _runner(torch.export.load(path).module())


def _runner(module: nn.Module) -> Callable[[Images], list[NDArray[Any]]]:
    def run(images: Images) -> list[NDArray[Any]]:
        with torch.inference_mode():
            outputs = module(torch.from_numpy(images))
        return [output.numpy() for output in ((outputs,) if isinstance(outputs, Tensor) else outputs)]

    return run


def _difference(module: nn.Module, exported: Callable[[Images], list[NDArray[Any]]], images: Images) -> float:
    """Largest difference in any output; also for one image alone, which must not be a special case."""
    ours = _runner(module)
    pairs = [pair for some in (images, images[:1]) for pair in zip(ours(some), exported(some), strict=True)]
    return max(float((np.abs(a - b) / np.maximum(1, np.abs(a))).max()) for a, b in pairs)


FORMATS: Mapping[str, Any] = {".onnx": (_write_onnx, _read_onnx), ".pt2": (_write_program, _read_program)}
