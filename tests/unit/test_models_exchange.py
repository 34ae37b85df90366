"""Models in other programs' formats give the numbers that ours give, or no file is kept."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from galaxray.errors import ConfigError, RunError
from galaxray.models import exchange
from galaxray.models.classifier import ClassifierNet
from galaxray.models.exchange import CARD_KEY, export_model, output_names
from galaxray.models.unet import UNet
from galaxray.models.vae import VAE
from galaxray.models.weights import save_model
from galaxray.training.program import run_training

ROOT = Path(__file__).parents[2]
HAS_ONNX = all(importlib.util.find_spec(name) for name in exchange.ONNX_PACKAGES)
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="onnx, onnxscript and onnxruntime are not installed")
FORMATS = [pytest.param(".onnx", marks=needs_onnx), ".pt2"]
MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "classifier": lambda: ClassifierNet("test_resnet", 5, dropout=0.3),
    "grey": lambda: ClassifierNet("test_convnext", 3, "classes", in_chans=1),
    "vae": lambda: VAE(5, 32, 4),
    "unet": lambda: UNet((4, 8), size=32, reduce=2),
}
RNG = np.random.default_rng(0)


def pictures(channels: int = 3, num: int = 5) -> dict[str, np.ndarray]:
    return {"noise": RNG.random((num, channels, 32, 32), dtype=np.float32)}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", MODELS)
def test_a_file_gives_the_numbers_of_the_model(name: str, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = MODELS[name]().requires_grad_(False)
    images = pictures(1 if name == "grey" else 3)
    path = tmp_path / f"model{suffix}"
    differences = export_model(module, path, images, {"kind": name})
    assert differences["noise"] < 1e-5
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with torch.inference_mode():
        expected = module(torch.from_numpy(images["noise"]))
    expected = (expected,) if isinstance(expected, torch.Tensor) else expected
    if suffix == ".pt2":
        extra = {CARD_KEY: ""}
        found = torch.export.load(path, extra_files=extra).module()(torch.from_numpy(images["noise"]))
        card = extra[CARD_KEY]
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        assert tuple(output.name for output in session.get_outputs()) == output_names(module)
        found = session.run(None, {"images": images["noise"]})
        card = session.get_modelmeta().custom_metadata_map[CARD_KEY]
    assert json.loads(card) == {"kind": name}
    for ours, theirs in zip(expected, found, strict=True):
        np.testing.assert_allclose(np.asarray(theirs), ours, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("error", [2e-4, np.nan])
def test_a_file_that_gives_other_numbers_is_not_kept(
    error: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, read = exchange.FORMATS[".pt2"]

    def read_wrong(path: Path) -> Any:
        right = read(path)
        return lambda images: [output + np.float32(error) for output in right(images)]

    monkeypatch.setitem(exchange.FORMATS, ".pt2", (write, read_wrong))
    path = tmp_path / "model.pt2"
    path.write_bytes(b"an older file")
    with pytest.raises(RunError, match=r"not kept: on noise it differs from the model by"):
        export_model(VAE(5, 32, 4), path, pictures(), {})
    assert path.read_bytes() == b"an older file"
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt2"]


def test_missing_packages_and_unknown_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.onnx or \.pt2"):
        export_model(VAE(5, 32, 4), tmp_path / "model.tflite", pictures(), {})
    monkeypatch.setattr(exchange.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ConfigError, match="ONNX needs onnxscript: pip install onnx onnxscript onnxruntime"):
        export_model(VAE(5, 32, 4), tmp_path / "model.onnx", pictures(), {})
    assert not list(tmp_path.iterdir())


def test_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from training.export import ExportProgram

    stem = tmp_path / "tiny"
    save_model(stem, VAE(5, 32, 4), {"view": {"size": 32, "zoom": 1.0}})

    def run(*arguments: str) -> int:
        return run_training(ExportProgram, ExportProgram.run, arguments, program="export.py")

    assert run("--model", str(stem), "--output", str(tmp_path / "tiny.pt2")) == 0
    printed = capsys.readouterr().out
    assert "largest difference on 16 galaxies of the synthetic sky: " in printed
    assert (tmp_path / "tiny.pt2").is_file()
    assert run("--model", str(stem), "--output", "x.pt2", "--images", str(tmp_path)) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path} holds no images (.jpg, .jpeg, .png, .fits) and no data set\n"
    )
